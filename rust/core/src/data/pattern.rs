//! The paths that a pattern such as `texts/**/*.txt` stands for.
//!
//! Expanded by the crate `glob`, but for patterns with `**`: there the crate follows links to folders, and two that lead
//! back make a tree without end. As in a shell, and in folders that are named without a pattern, they are not followed.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::error::{Error, Result};

const RECURSIVE: &str = "**";
/// Folders within folders; deeper is a loop made by mounts.
pub(crate) const MAX_DEPTH: usize = 128;

/// All matches, in no particular order.
pub(crate) fn expand(pattern: &str) -> Result<Vec<PathBuf>> {
    let invalid = |error: glob::PatternError| Error::data(format!("{pattern}: not a valid pattern: {}", error.msg));
    if !pattern.split('/').any(|part| part == RECURSIVE) {
        let matches = glob::glob(pattern).map_err(invalid)?;
        return matches.map(|path| path.map_err(|e| Error::cannot_read(e.path(), e.error()))).collect();
    }
    let compiled = Pattern::new(pattern).map_err(invalid)?;
    // The part before the first special character is a folder as it stands.
    let plain = |part: &&OsStr| !part.as_encoded_bytes().iter().any(|byte| b"*?[".contains(byte));
    let base: PathBuf = Path::new(pattern).iter().take_while(plain).collect();
    let mut search = Search { pattern: &compiled, folders: pattern.ends_with(RECURSIVE), found: Vec::new() };
    search.folder(&base, 0)?;
    Ok(search.found)
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
        let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let cannot_read = |error: std::io::Error| Error::cannot_read(here, &error);
        for entry in std::fs::read_dir(here).map_err(cannot_read)? {
            let entry = entry.map_err(cannot_read)?;
            let path = folder.join(entry.file_name());
            let is_folder = entry.file_type().map_err(cannot_read)?.is_dir();
            if (is_folder || !self.folders) && self.pattern.matches_path_with(&path, options) {
                self.found.push(path.clone());
            }
            if is_folder {
                self.folder(&path, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path, pattern: &str) -> Vec<String> {
        let found = expand(&format!("{}/{pattern}", folder.display())).unwrap();
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
        assert_eq!(expand(&format!("{}/gone/**/*", folder.path().display())).unwrap_err().kind, crate::ErrorKind::Data);
        assert!(expand("[**/x").unwrap_err().message.contains("not a valid pattern"));
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
