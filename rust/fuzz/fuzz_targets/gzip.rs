//! Any bytes as a compressed text; and bytes that are compressed here, in members, with damage behind them.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;

fn read(data: &[u8]) -> Option<String> {
    symlm_fuzz::read("a.txt.gz", data)
}

fn member(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory");
    encoder.finish().expect("memory")
}

fuzz_target!(|data: &[u8]| {
    read(data);
    let [cut, damage, rest @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if text.is_empty() || text.contains('\0') {
        return;
    }
    let at = usize::from(*cut) % (rest.len() + 1);
    let mut packed = [member(&rest[..at]), member(&rest[at..])].concat();
    let whole = text.strip_prefix('\u{feff}').unwrap_or(text);
    assert_eq!(read(&packed).as_deref(), Some(whole));
    // Anything short of all of it is an error.
    let short = usize::from(*damage) % packed.len();
    if short > 0 {
        let first = member(&rest[..at]).len();
        let got = read(&packed[..packed.len() - short]);
        let only_first = packed.len() - short == first;
        assert!(got.is_none() || only_first, "{got:?}");
    }
    // Zeros behind the last member are padding, anything else is damage.
    packed.extend_from_slice(&[0; 3]);
    assert_eq!(read(&packed).as_deref(), Some(whole));
    packed.extend_from_slice(b"garbage");
    assert_eq!(read(&packed), None);
});
