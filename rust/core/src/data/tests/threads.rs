//! No thread stays behind. Counted in a separate process, since tests beside this one have threads too.

use super::*;

const CHILD: &str = "SYMLM_TEST_COUNT_THREADS";

fn tasks() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
#[cfg(target_os = "linux")]
fn no_thread_stays_behind() {
    if std::env::var_os(CHILD).is_none() {
        let name = "no_thread_stays_behind";
        let tests = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--test-threads=1", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&tests.stdout).into_owned();
        assert!(tests.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let before = tasks();
    let files = folder(&[("a.txt", text(1, 50_000).as_bytes())]);
    let cache = folder(&[]);
    let corpus = open(files.path()).unwrap();
    let mut most = 0;
    let tokenizer = corpus
        .train_tokenizer(300, 5, &mut |_, _| {
            most = most.max(tasks());
            Ok(())
        })
        .unwrap();
    assert_eq!(most, before + 5);
    corpus.prepare(&tokenizer, cache.path(), 0.1, 8, 5, &mut quiet()).unwrap();
    tokenizer.encode(&text(2, 1000)).unwrap();
    // A thread that was joined may still be listed for a moment while the system clears it away.
    for _ in 0..60_000 {
        if tasks() == before {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} threads, {before} before", tasks());
}
