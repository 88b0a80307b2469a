//! What programs write although it is not JSON: half of a surrogate pair, and numbers that are not finite.
//!
//! Python's `json.dumps` writes both. They are replaced by as many bytes, so that places in messages stay right.

/// Escape of the character that stands for half of a surrogate pair.
const REPLACEMENT: &[u8] = b"\\ufffd";
const NOT_FINITE: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];

/// A text of JSON with U+FFFD for each half of a pair, and their number; with `numbers`, 0 for each number that is not
/// finite. `None` if there is nothing to replace.
pub(crate) fn replaced(json: &str, numbers: bool) -> Option<(String, u64)> {
    let bytes = json.as_bytes();
    let mut out = json.as_bytes().to_vec();
    let (mut at, mut in_string, mut halves, mut found_number) = (0, false, 0, false);
    while at < bytes.len() {
        if !in_string {
            in_string = bytes[at] == b'"';
            let number = NOT_FINITE.iter().find(|number| numbers && bytes[at..].starts_with(number));
            if let Some(number) = number {
                out[at..at + number.len()].fill(b' ');
                out[at] = b'0';
                found_number = true;
            }
            at += number.map_or(1, |number| number.len());
            continue;
        }
        let Some(found) = memchr::memchr2(b'"', b'\\', &bytes[at..]) else { break };
        at += found;
        if bytes[at] == b'"' {
            in_string = false;
            at += 1;
            continue;
        }
        match (unit(&bytes[at..]), bytes.get(at + 6..).and_then(unit)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => at += 12,
            (Some(0xd800..0xe000), _) => {
                out[at..at + REPLACEMENT.len()].copy_from_slice(REPLACEMENT);
                halves += 1;
                at += 6;
            }
            _ => at += 2,
        }
    }
    // Only whole ASCII characters were replaced, by such.
    let out = String::from_utf8(out).ok()?;
    (halves > 0 || found_number).then_some((out, halves))
}

/// The UTF-16 unit of an escape such as `\ud83d`.
fn unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let digits = digits.iter().all(u8::is_ascii_hexdigit).then(|| std::str::from_utf8(digits).ok())??;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_and_numbers_that_are_not_finite() {
        for (json, expected, halves) in [
            (r#""\ud83d""#, r#""\ufffd""#, 1),
            (r#""a\uDE00b""#, r#""a\ufffdb""#, 1),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#, 1),
            (r#""\ude00\ud83d""#, r#""\ufffd\ufffd""#, 2),
            (r#""\ud83d\u0041""#, r#""\ufffd\u0041""#, 1),
            (r#"{"\ud800": "\\\ud800 NaN"}"#, r#"{"\ufffd": "\\\ufffd NaN"}"#, 2),
            (r#"[NaN, -Infinity,Infinity]"#, r#"[0  , 0        ,0       ]"#, 0),
        ] {
            assert_eq!(replaced(json, true), Some((expected.to_owned(), halves)), "{json}");
        }
        for json in
            [r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\ufffd \u00e9""#, r#""NaN Infinity""#, r#""\ud8"#, "\"\\", "nan"]
        {
            assert_eq!(replaced(json, true), None, "{json}");
        }
    }
}
