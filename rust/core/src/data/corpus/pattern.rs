//! The paths that a pattern such as `texts/**/*.txt` stands for.
//!
//! Each part of a path is matched by the crate `glob`, but its search is not used: it leaves out names that are not
//! UTF-8, and for `**` it follows links to folders, of which two that lead back make a tree without end. Here a name is
//! matched as messages show it, with U+FFFD for what is not UTF-8, and `**` follows no link, as in a shell.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};
use crate::system::files::{self, DirEntry, is_folder};

const RECURSIVE: &str = "**";
/// Folders within folders; deeper is a loop made by mounts.
pub(crate) const MAX_DEPTH: usize = 128;

/// For names that are meant as they stand.
pub(crate) const BRACKETS: &str = "check the spelling; in a pattern, [[] stands for a bracket that is part of a name";

/// Whether a path, or a part of one, has characters that are special in a pattern.
pub(crate) fn is_pattern(path: &OsStr) -> bool {
    path.as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// All matches, in no particular order.
pub(crate) fn expand(pattern: &OsStr) -> Result<Vec<PathBuf>> {
    let text = pattern.to_string_lossy();
    let compile = |part: &str| {
        Pattern::new(part).map_err(|error| {
            Error::data(format!("found no file at {text}, and it is not a valid pattern: {}", error.msg)).hint(BRACKETS)
        })
    };
    let whole = compile(&text)?;
    let mut found = Vec::new();
    if text.split('/').any(|part| part == RECURSIVE) {
        // The part before the first special character is a folder as it stands.
        let base: PathBuf = Path::new(pattern).iter().take_while(|part| !is_pattern(part)).collect();
        let mut search = Search { pattern: &whole, folders: text.ends_with(RECURSIVE), found };
        search.folder(&base, 0)?;
        return Ok(search.found);
    }
    let parts: Vec<&OsStr> = Path::new(pattern).iter().collect();
    let compiled: Vec<Option<Pattern>> = parts
        .iter()
        .map(|part| if is_pattern(part) { compile(&part.to_string_lossy()).map(Some) } else { Ok(None) })
        .collect::<Result<_>>()?;
    descend(PathBuf::new(), &parts, &compiled, &mut found)?;
    if pattern.as_encoded_bytes().ends_with(b"/") {
        found.retain(|path| is_folder(path));
    }
    Ok(found)
}

/// Adds the paths below `at` that match `parts`; a part without a pattern is a name as it stands.
fn descend(at: PathBuf, parts: &[&OsStr], patterns: &[Option<Pattern>], found: &mut Vec<PathBuf>) -> Result<()> {
    let ([part, parts @ ..], [pattern, patterns @ ..]) = (parts, patterns) else {
        if files::has_name(&at) {
            found.push(at);
        }
        return Ok(());
    };
    let Some(pattern) = pattern else {
        return descend(at.join(part), parts, patterns, found);
    };
    if !is_folder(here(&at)) {
        return Ok(());
    }
    for entry in entries(&at)? {
        let name = entry.file_name();
        if pattern.matches(&name.to_string_lossy()) {
            descend(at.join(name), parts, patterns, found)?;
        }
    }
    Ok(())
}

/// The folder, also where that is the current one, which has no name.
fn here(folder: &Path) -> &Path {
    if folder.as_os_str().is_empty() { Path::new(".") } else { folder }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>> {
    let entries = files::entries(here(folder)).and_then(Iterator::collect);
    entries.map_err(|error| Error::cannot_read(here(folder), &error))
}

struct Search<'a> {
    pattern: &'a Pattern,
    /// Whether it is folders that are wanted: all below one, as a pattern that ends with `**` means.
    folders: bool,
    found: Vec<PathBuf>,
}

impl Search<'_> {
    fn folder(&mut self, folder: &Path, depth: usize) -> Result<()> {
        let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
        if depth > MAX_DEPTH {
            return Err(Error::data(format!("{}: folders are nested deeper than {MAX_DEPTH}", folder.display())));
        }
        for entry in entries(folder)? {
            let path = folder.join(entry.file_name());
            let kind = entry.file_type().map_err(|error| Error::cannot_read(&path, &error))?;
            if (kind.is_dir() || !self.folders) && self.pattern.matches_with(&path.to_string_lossy(), options) {
                self.found.push(path.clone());
            }
            if kind.is_dir() {
                self.folder(&path, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn names(folder: &Path, pattern: &str) -> Vec<String> {
        let found = expand(OsStr::new(&format!("{}/{pattern}", folder.display()))).unwrap();
        let mut names: Vec<String> =
            found.iter().map(|path| path.strip_prefix(folder).unwrap().display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn folders_within_folders() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for name in ["x.txt", "a/y.txt", "a/b/z.txt", "a/b/z.md"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let expected = [
            ("*.txt", vec!["x.txt"]),
            ("**/*.txt", vec!["a/b/z.txt", "a/y.txt", "x.txt"]),
            ("a/**/*.txt", vec!["a/b/z.txt", "a/y.txt"]),
            ("**/b/*", vec!["a/b/z.md", "a/b/z.txt"]),
            ("*/**/z.*", vec!["a/b/z.md", "a/b/z.txt"]),
        ];
        for (pattern, expected) in expected {
            assert_eq!(names(folder.path(), pattern), expected, "{pattern}");
            // Without links it is what the crate finds.
            let theirs = glob::glob(&format!("{}/{pattern}", folder.path().display())).unwrap().count();
            assert_eq!(theirs, expected.len(), "{pattern}");
        }
        let gone = folder.path().join("gone/**/*");
        assert_eq!(expand(gone.as_os_str()).unwrap_err().kind, crate::ErrorKind::Data);
        assert!(expand(OsStr::new("[**/x")).unwrap_err().message.contains("not a valid pattern"));
        assert!(expand(OsStr::new("[/x")).unwrap_err().message.contains("not a valid pattern"));
    }

    #[test]
    fn without_recursion_it_is_what_the_crate_finds() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::create_dir_all(folder.path().join("c/b")).unwrap();
        for name in ["x.txt", "y.txt", ".z.txt", "a/x.txt", "a/b/z.txt", "c/b/z.md", "c/b/[z].txt"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("a", folder.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", folder.path().join("broken.txt")).unwrap();
        for pattern in [
            "*",
            "*.txt",
            "?.txt",
            "*/",
            "*/x.txt",
            "*/b/*",
            "a/*/z.txt",
            "[ac]/b/z*",
            "*/gone/*",
            "c/b/[[]z*",
            "x.txt/*",
            "*/*/*",
            "./*.txt",
            "a/../*.txt",
        ] {
            let full = format!("{}/{pattern}", folder.path().display());
            let mut theirs: Vec<_> = glob::glob(&full).unwrap().map(|path| path.unwrap().canonicalize().ok()).collect();
            let mut ours: Vec<_> =
                expand(OsStr::new(&full)).unwrap().iter().map(|path| path.canonicalize().ok()).collect();
            ours.sort();
            theirs.sort();
            assert_eq!(ours, theirs, "{pattern}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_match_as_they_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join(OsStr::from_bytes(b"d\xe9/fr\xe9.txt"));
        std::fs::create_dir(name.parent().unwrap()).unwrap();
        std::fs::write(&name, "x").unwrap();
        for pattern in
            [&b"*/*.txt"[..], b"**/fr?.txt", b"d\xe9/*.txt", b"d*/fr\xe9.tx?", b"**/*\xe9.txt", b"d\xe9/**/*.txt"]
        {
            let pattern = folder.path().join(OsStr::from_bytes(pattern));
            assert_eq!(expand(pattern.as_os_str()).unwrap(), std::slice::from_ref(&name), "{}", pattern.display());
        }
    }

    #[test]
    fn links_that_lead_back_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.txt"), "x").unwrap();
        for name in ["a", "b"] {
            std::os::unix::fs::symlink(".", folder.path().join(name)).unwrap();
        }
        assert_eq!(names(folder.path(), "**/*.txt"), ["x.txt"]);
        assert_eq!(names(folder.path(), "**/*.none"), [""; 0]);
    }
}
