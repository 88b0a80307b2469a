//! Where values of JSON end, without looking at what they are.

/// How the reading of an object ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// At something that cannot stand there; `outermost` tells whether that was between the fields of the object.
    Broken {
        outermost: bool,
    },
    /// At the end of the file.
    Cut,
}

/// Finds the end of an object, or of a list, by its brackets; what stands between them is for a parser.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    depth: u64,
    in_string: bool,
    escaped: bool,
    /// Whether a value has just ended, so that none can begin.
    after_value: bool,
}

impl Scanner {
    /// Looks at more bytes; gives how many of them were read and what was found, if anything.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> (usize, Option<Extent>) {
        let mut at = 0;
        while at < bytes.len() {
            if std::mem::take(&mut self.escaped) {
                at += 1;
            } else if self.in_string {
                let Some(found) = memchr::memchr3(b'"', b'\\', b'\n', &bytes[at..]) else { break };
                at += found + 1;
                match bytes[at - 1] {
                    b'"' => (self.in_string, self.after_value) = (false, true),
                    b'\\' => self.escaped = true,
                    _ => return (at, Some(Extent::Broken { outermost: false })),
                }
            } else {
                at += 1;
                if let Some(extent) = self.outside(bytes[at - 1]) {
                    return (at, Some(extent));
                }
            }
        }
        (bytes.len(), None)
    }

    /// A byte outside of strings.
    fn outside(&mut self, byte: u8) -> Option<Extent> {
        match byte {
            b'"' | b'{' | b'[' if self.after_value => return Some(Extent::Broken { outermost: self.depth == 1 }),
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                self.after_value = true;
                if self.depth == 0 {
                    return Some(Extent::Whole);
                }
            }
            b',' | b':' => self.after_value = false,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => self.after_value = true,
        }
        None
    }
}

/// An object with only these fields of an object, in their order; what is not valid JSON in them stays so.
pub(crate) fn select(object: &str, fields: &[&str]) -> String {
    let wanted = |name: &str| {
        fields.iter().any(|field| name == *field || field.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    };
    let kept: Vec<_> = members(object).filter(|member| wanted(&member.name)).map(|member| member.text).collect();
    format!("{{{}}}", kept.join(", "))
}

/// A field of an object.
pub(crate) struct Member<'a> {
    /// Its name; empty where that cannot be read.
    pub(crate) name: String,
    /// Name and value as they are written.
    pub(crate) text: &'a str,
    /// The value.
    pub(crate) value: &'a str,
}

/// The fields of an object, in their order.
pub(crate) fn members(object: &str) -> impl Iterator<Item = Member<'_>> {
    let bytes = object.as_bytes();
    let mut next = skip(bytes, 0, b" \t\r\n{");
    std::iter::from_fn(move || {
        let at = next;
        if bytes.get(at) != Some(&b'"') {
            return None;
        }
        let name_end = string_end(bytes, at);
        let begin = skip(bytes, name_end, b" \t\r\n:");
        let end = value_end(bytes, begin);
        next = skip(bytes, end, b" \t\r\n,");
        let name = serde_json::from_str(&object[at..name_end]).unwrap_or_default();
        Some(Member { name, text: &object[at..end], value: &object[begin..end] })
    })
}

/// The first place from `at` on with another byte than these.
fn skip(bytes: &[u8], mut at: usize, passed: &[u8]) -> usize {
    while bytes.get(at).is_some_and(|byte| passed.contains(byte)) {
        at += 1;
    }
    at
}

/// Where the string ends that begins at a byte.
fn string_end(bytes: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found + 1;
        if bytes[at - 1] == b'"' {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

/// Where the value ends that begins at a byte.
fn value_end(bytes: &[u8], begin: usize) -> usize {
    let (mut at, mut depth) = (begin, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b'{' | b'[' => (at, depth) = (at + 1, depth + 1),
            b'}' | b']' if depth > 0 => (at, depth) = (at + 1, depth - 1),
            b'}' | b']' | b',' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => return at,
            _ => {
                at += 1;
                continue;
            }
        }
        if depth == 0 {
            return at;
        }
    }
    at
}
