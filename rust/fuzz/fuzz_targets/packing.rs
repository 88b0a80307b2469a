//! Any bytes as a text compressed by zstd, xz or bzip2; and bytes that are compressed here, cut and with damage behind them.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use symlm_fuzz::read;

const NAMES: [&str; 3] = ["a.txt.zst", "a.txt.xz", "a.txt.bz2"];

fn packed(name: &str, data: &[u8]) -> Option<Vec<u8>> {
    match name {
        "a.txt.zst" => Some(zstd::stream::encode_all(data, 1).expect("memory")),
        "a.txt.bz2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(data).expect("memory");
            Some(encoder.finish().expect("memory"))
        }
        _ => None,
    }
}

fuzz_target!(|data: &[u8]| {
    let [kind, cut, rest @ ..] = data else { return };
    let name = NAMES[usize::from(*kind) % NAMES.len()];
    read(name, rest);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    // What begins like another kind of file is refused as that.
    if text.is_empty() || !text.starts_with('a') || text.contains('\0') {
        return;
    }
    let Some(whole) = packed(name, rest) else { return };
    assert_eq!(read(name, &whole).as_deref(), Some(text));
    assert_eq!(read(name, &whole.repeat(2)), Some(text.repeat(2)));
    let short = 1 + usize::from(*cut) % whole.len();
    assert_eq!(read(name, &whole[..whole.len() - short]), None);
    assert_eq!(read(name, &[&whole[..], b"garbage"].concat()), None);
});
