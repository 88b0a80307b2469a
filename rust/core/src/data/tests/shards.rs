//! Shards, the cache and the split.

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::data::shards::{CONTEXT, ShardWriter};

fn all_ids(shards: &Shards) -> Vec<u32> {
    let mut ids = vec![0; shards.tokens() as usize];
    shards.copy_ids(0, &mut ids).unwrap();
    ids
}

fn cached(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn prepare(corpus: &Corpus, tokenizer: &Tokenizer, cache: &Path, split: f64) -> Result<(Shards, Option<Shards>)> {
    corpus.prepare(tokenizer, cache, split, 8, 2, &mut quiet())
}

#[test]
fn ids_are_those_of_the_documents_with_end_of_text_between() {
    let tokenizer = tokenizer();
    let files = folder(&[("a.txt", b"the cat sat on the mat"), ("b.txt", b""), ("c.md", "don't \u{fe0f}ä".as_bytes())]);
    let cache = folder(&[]);
    let (train, val) = prepare(&open(files.path()).unwrap(), &tokenizer, cache.path(), 0.0).unwrap();
    assert!(val.is_none());
    let mut expected = tokenizer.encode("the cat sat on the mat").unwrap();
    expected.push(0);
    expected.extend(tokenizer.encode("don't \u{fe0f}ä").unwrap());
    assert_eq!(all_ids(&train), expected);
    assert_eq!((train.documents(), train.bytes(), train.vocab_size()), (2, 22 + 11, 300));
    assert_eq!(train.sha256().len(), 64);
    let mut some = [0; 3];
    train.copy_ids(2, &mut some).unwrap();
    assert_eq!(some, expected[2..5]);
    for (start, count) in [(train.tokens(), 1), (u64::MAX, 1), (0, expected.len() + 1)] {
        assert!(train.copy_ids(start, &mut vec![0; count]).is_err());
    }
    train.copy_ids(train.tokens(), &mut []).unwrap();
}

#[test]
fn long_text_has_the_same_ids_for_any_threads() {
    let tokenizer = tokenizer();
    let long = text(7, 500_000);
    let files = folder(&[("a.txt", long.as_bytes())]);
    let corpus = open(files.path()).unwrap();
    let mut hashes = Vec::new();
    for threads in [1, 3] {
        let cache = folder(&[]);
        let (train, _) = corpus.prepare(&tokenizer, cache.path(), 0.0, 8, threads, &mut quiet()).unwrap();
        assert_eq!(all_ids(&train), tokenizer.encode(&long).unwrap());
        hashes.push(train.sha256());
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn parts_add_up_to_the_whole() {
    let tokenizer = tokenizer();
    for count in [1, 5, 60] {
        let texts: Vec<(String, String)> = (0..count).map(|i| (format!("{i:02}.txt"), text(i, 300))).collect();
        let files: Vec<(&str, &[u8])> = texts.iter().map(|(name, text)| (name.as_str(), text.as_bytes())).collect();
        let (files, cache) = (folder(&files), folder(&[]));
        let corpus = open(files.path()).unwrap();
        let (whole, _) = prepare(&corpus, &tokenizer, cache.path(), 0.0).unwrap();
        let (train, val) = prepare(&corpus, &tokenizer, cache.path(), 0.1).unwrap();
        let val = val.unwrap();
        assert_eq!(train.bytes() + val.bytes(), whole.bytes());
        let share = val.bytes() as f64 / whole.bytes() as f64;
        assert!((0.07..0.13).contains(&share), "{share}");
        // Each part lacks the end-of-text between the parts; a document cut in two counts in both.
        let eots = |shards: &Shards| all_ids(shards).iter().filter(|&&id| id == 0).count() as u64;
        for shards in [&whole, &train, &val] {
            assert_eq!(eots(shards), shards.documents() - 1);
            let decoded = tokenizer.decode_bytes(&all_ids(shards)).unwrap();
            assert_eq!(decoded.len() as u64, shards.bytes() + eots(shards) * END_OF_TEXT.len() as u64);
        }
        assert_eq!(train.tokens() - eots(&train) + val.tokens() - eots(&val), whole.tokens() - eots(&whole));
        if count == 60 {
            assert_eq!(train.documents() + val.documents(), 60);
        }
    }
}

#[test]
fn the_cache_is_hit_and_never_stale() {
    let tokenizer = tokenizer();
    let (files, cache) = (folder(&[("a.txt", text(1, 500).as_bytes())]), folder(&[]));
    let corpus = open(files.path()).unwrap();
    let first = prepare(&corpus, &tokenizer, cache.path(), 0.1).unwrap();
    let names = cached(cache.path());
    assert_eq!(names.len(), 2);
    let made = std::fs::metadata(&names[0]).unwrap().modified().unwrap();
    let again = prepare(&corpus, &tokenizer, cache.path(), 0.1).unwrap();
    assert_eq!(first.0.sha256(), again.0.sha256());
    assert_eq!(std::fs::metadata(&names[0]).unwrap().modified().unwrap(), made);
    // Other content of the same size and time, under a corpus opened before.
    let stamp = std::fs::metadata(files.path().join("a.txt")).unwrap().modified().unwrap();
    let other = text(1, 500).replace("cat", "dog");
    let path = write(files.path(), "a.txt", &other);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(stamp).unwrap();
    let changed = prepare(&corpus, &tokenizer, cache.path(), 0.1).unwrap();
    assert_ne!(changed.0.sha256(), first.0.sha256());
    // Another split, another tokenizer: other files.
    prepare(&corpus, &tokenizer, cache.path(), 0.2).unwrap();
    let smaller = open(files.path()).unwrap().train_tokenizer(280, 1, &mut quiet()).unwrap();
    prepare(&corpus, &smaller, cache.path(), 0.2).unwrap();
    assert_eq!(cached(cache.path()).len(), 8);
}

#[test]
fn damaged_cache_files_are_made_again() {
    let tokenizer = tokenizer();
    let (files, cache) = (folder(&[("a.txt", text(1, 500).as_bytes())]), folder(&[]));
    let corpus = open(files.path()).unwrap();
    let sound = prepare(&corpus, &tokenizer, cache.path(), 0.1).unwrap().0.sha256();
    for path in cached(cache.path()) {
        let good = std::fs::read(&path).unwrap();
        for damage in 0..4 {
            let mut bad = good.clone();
            match damage {
                0 => bad.truncate(good.len() - 1),
                1 => bad[260] ^= 1,
                2 => bad[20] ^= 1,
                _ => bad.clear(),
            }
            std::fs::write(&path, bad).unwrap();
            assert_eq!(prepare(&corpus, &tokenizer, cache.path(), 0.1).unwrap().0.sha256(), sound);
            assert!(std::fs::read(&path).unwrap() == good);
        }
    }
}

#[test]
fn too_little_text_and_bad_arguments() {
    let tokenizer = tokenizer();
    let (files, cache) = (folder(&[("a.txt", text(1, 100).as_bytes())]), folder(&[]));
    let corpus = open(files.path()).unwrap();
    let call = |split, seq_len, threads| {
        corpus.prepare(&tokenizer, cache.path(), split, seq_len, threads, &mut quiet()).unwrap_err()
    };
    let error = call(0.0, 100_000, 1);
    assert!(error.message.contains("the text has") && error.message.contains("100001"), "{error}");
    let error = call(0.1, 100, 1);
    assert!(error.message.contains("the validation text has"), "{error}");
    assert!(error.hint.unwrap().contains("--val-split 0"));
    for split in [-0.1, 1.0, f64::NAN] {
        assert_eq!(call(split, 8, 1).kind, ErrorKind::Usage);
    }
    assert_eq!(call(0.0, 0, 1).kind, ErrorKind::Usage);
    assert_eq!(call(0.3, 8, 0).kind, ErrorKind::Usage);
    let blocked = write(files.path(), "file", "");
    assert_eq!(
        corpus.prepare(&tokenizer, &blocked.join("x"), 0.0, 8, 1, &mut quiet()).unwrap_err().kind,
        ErrorKind::User
    );
}

#[test]
fn a_stop_leaves_no_files() {
    let tokenizer = tokenizer();
    let (files, cache) = (folder(&[("a.txt", text(1, 500).as_bytes())]), folder(&[]));
    let corpus = open(files.path()).unwrap();
    let mut calls = 0;
    for stop_at in 1..3 {
        let error = corpus.prepare(&tokenizer, cache.path(), 0.1, 8, 2, &mut |_, _| {
            std::thread::sleep(std::time::Duration::from_millis(60));
            calls += 1;
            if calls % stop_at == 0 { Err(crate::Error::user("stop")) } else { Ok(()) }
        });
        assert_eq!(error.unwrap_err().message, "stop");
    }
    assert!(cached(cache.path()).is_empty());
}

/// Windows of four ids, of which the first is not a target.
fn windows(folder: &Path, vocab: u32, ids: &[u32]) -> Result<Shards> {
    let mut writer = ShardWriter::create(folder.join("a.ids"), vocab, [7; 32], Some(4))?;
    let word = |(place, id): (usize, &u32)| if place % 4 == 0 { id | CONTEXT } else { *id };
    writer.push(&ids.iter().enumerate().map(word).collect::<Vec<u32>>())?;
    writer.count_example(false);
    writer.add_bytes(ids.len() as u64);
    writer.finish()
}

fn shard(folder: &Path, vocab: u32, ids: &[u32]) -> Result<Shards> {
    let mut writer = ShardWriter::create(folder.join("a.ids"), vocab, [7; 32], None)?;
    writer.begin_document(0, &[])?;
    writer.push(ids)?;
    writer.add_bytes(ids.len() as u64);
    writer.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shards_round_trip(vocab in prop::sample::select(vec![257u32, 65_536, 65_537, 1 << 20]), seeds in prop::collection::vec(any::<u32>(), 0..500)) {
        let ids: Vec<u32> = seeds.iter().map(|seed| seed % vocab).collect();
        let folder = folder(&[]);
        let shards = shard(folder.path(), vocab, &ids).unwrap();
        prop_assert_eq!(all_ids(&shards), ids);
        prop_assert_eq!(shards.vocab_size(), vocab as usize);
    }

    #[test]
    fn hostile_shards_are_errors(at in 0usize..1100, value in any::<u8>(), cut in 0usize..1100, cut_up: bool) {
        let folder = folder(&[]);
        let make = if cut_up { windows } else { shard };
        let path = make(folder.path(), 300, &[5; 200]).unwrap().path().to_owned();
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        if let Some(byte) = bad.get_mut(at) { *byte = value }
        bad.truncate(cut.max(1));
        std::fs::write(&path, &bad).unwrap();
        match Shards::open(&path) {
            Ok(_) => prop_assert_eq!(bad, good),
            Err(error) => prop_assert_eq!(error.kind, ErrorKind::Data),
        }
    }
}

#[test]
fn well_sealed_lies_are_errors_too() {
    use sha2::{Digest, Sha256};
    let folder = folder(&[]);
    let path = shard(folder.path(), 300, &[5; 200]).unwrap().path().to_owned();
    let good = std::fs::read(&path).unwrap();
    for (at, number) in [(16, u64::MAX), (16, 201), (16, 1 << 63), (40, u64::MAX), (40, 4), (40, 1 << 20), (8, 9)] {
        let mut bad = good.clone();
        bad[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let seal = Sha256::digest(&bad[..224]);
        bad[224..256].copy_from_slice(&seal);
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(Shards::open(&path).unwrap_err().kind, ErrorKind::Data, "{at} {number}");
    }
    std::fs::write(&path, b"").unwrap();
    assert_eq!(Shards::open(&path).unwrap_err().kind, ErrorKind::Data);
    // Windows: their length, the targets, the version.
    let path = windows(folder.path(), 300, &[5; 200]).unwrap().path().to_owned();
    let good = std::fs::read(&path).unwrap();
    for (at, number) in [(112, 0), (112, 1), (112, 5), (112, 3), (112, u64::MAX), (120, 149), (8, 1)] {
        let mut bad = good.clone();
        bad[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let seal = Sha256::digest(&bad[..224]);
        bad[224..256].copy_from_slice(&seal);
        std::fs::write(&path, bad).unwrap();
        assert_eq!(Shards::open(&path).unwrap_err().kind, ErrorKind::Data, "{at} {number}");
    }
}

#[test]
fn random_ids_cover_the_vocabulary_and_follow_the_seed() {
    let cache = folder(&[]);
    let make = |name: &str, vocab, seed| Shards::random(&cache.path().join(name), vocab, 70_000, seed).unwrap();
    let (first, again, other) = (make("a", 300, 1), make("b", 300, 1), make("c", 300, 2));
    assert_eq!(first.sha256(), again.sha256());
    assert_ne!(first.sha256(), other.sha256());
    let mut counts = vec![0; 300];
    for id in all_ids(&first) {
        counts[id as usize] += 1;
    }
    // 233 expected of each, with a standard deviation of 15.
    assert!(counts.iter().all(|count| (130..340).contains(count)), "{counts:?}");
    assert_eq!(make("d", 100_000, 1).vocab_size(), 100_000);
}

#[test]
fn a_shard_that_changes_under_way_is_an_error() {
    let cache = folder(&[]);
    let change: [fn(&std::fs::File); 3] = [
        |file| file.set_len(HALF).unwrap(),
        |file| file.set_len(0).unwrap(),
        |file| std::os::unix::fs::FileExt::write_all_at(file, &[7; 64], HALF).unwrap(),
    ];
    for (number, change) in change.into_iter().enumerate() {
        let path = cache.path().join(format!("{number}.ids"));
        let shards = Shards::random(&path, 300, 50_000, number as u64).unwrap();
        let mut ids = vec![0; 5000];
        shards.copy_ids(40_000, &mut ids).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        // Times of files may be as coarse as the clock of the system.
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        change(&file);
        let error = shards.copy_ids(40_000, &mut ids).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Data);
        assert!(error.message.contains("changed while they were in use"), "{error}");
    }
}

/// A place in the middle of the shards of that test.
const HALF: u64 = 50_000;

#[test]
fn what_a_killed_process_left_in_the_cache_goes_away() {
    let cache = folder(&[(".shard-old", b"x"), (".shard-new", b"x"), (".shard-held", b"x"), ("other", b"x")]);
    let held = std::fs::File::open(cache.path().join(".shard-held")).unwrap();
    held.lock().unwrap();
    for name in [".shard-old", ".shard-held", "other"] {
        let file = std::fs::File::options().write(true).open(cache.path().join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).unwrap();
    }
    crate::data::shards::remove_unfinished(cache.path());
    let left: Vec<_> = cached(cache.path()).iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    assert_eq!(left, [".shard-held", ".shard-new", "other"]);
}
