//! Folders that the library `datasets` saved: tables of Arrow, listed in order, or a folder of such for each split.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, brief};
use crate::system::files::{exists, open};

/// In a folder of one split: the files, in order.
const STATE: &str = "state.json";
/// Beside it.
const INFO: &str = "dataset_info.json";
/// In a folder of splits: their names.
const SPLITS: &str = "dataset_dict.json";
/// The largest list that is read.
const MOST_BYTES: u64 = 16 << 20;

#[derive(serde::Deserialize)]
struct State {
    _data_files: Vec<DataFile>,
    #[serde(default)]
    _indices_files: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(serde::Deserialize)]
struct DataFile {
    filename: String,
}

#[derive(serde::Deserialize)]
struct Splits {
    splits: Vec<String>,
}

/// Whether a folder is one that `datasets` saved.
pub(super) fn is_dataset(folder: &Path) -> bool {
    exists(&folder.join(SPLITS)) || exists(&folder.join(STATE)) && exists(&folder.join(INFO))
}

/// The tables of such a folder, in order.
///
/// # Errors
/// `Data` for a folder of several splits, and for lists that cannot be read.
pub(super) fn tables(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = folder.join(SPLITS);
    if !exists(&list) {
        return tables_of_split(folder);
    }
    let Splits { splits } = parse(&list)?;
    match &splits[..] {
        [only] => tables_of_split(&folder.join(file_name(&list, only)?)),
        [] => Err(Error::data(format!("{}: found no split, expected at least one", list.display()))),
        [first, ..] => {
            let names = brief(&splits.join(", "));
            let error = format!("{}: found a dataset of the splits {names}, expected one split", folder.display());
            let one = folder.join(brief(first));
            Err(Error::data(error).hint(format!("name one of them, as in {}", one.display())))
        }
    }
}

fn tables_of_split(folder: &Path) -> Result<Vec<PathBuf>> {
    let list = folder.join(STATE);
    let state: State = parse(&list)?;
    if state._indices_files.is_some_and(|files| !files.is_empty()) {
        let error = Error::data(format!("{}: found a dataset whose rows are chosen by indices", folder.display()));
        return Err(error.hint("save it again: dataset.flatten_indices().save_to_disk(..)"));
    }
    state._data_files.iter().map(|file| Ok(folder.join(file_name(&list, &file.filename)?))).collect()
}

/// A name of something in the folder of a list, and nowhere else.
fn file_name<'n>(list: &Path, name: &'n str) -> Result<&'n str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        let found = brief(&format!("{name:?}"));
        return Err(Error::data(format!("{}: found the name {found}, expected one in its folder", list.display())));
    }
    Ok(name)
}

fn parse<T: serde::de::DeserializeOwned>(list: &Path) -> Result<T> {
    let mut text = Vec::new();
    let file = open(list).map_err(|error| Error::cannot_read(list, &error))?;
    file.take(MOST_BYTES).read_to_end(&mut text).map_err(|error| Error::cannot_read(list, &error))?;
    serde_json::from_slice(&text).map_err(|error| {
        let error = Error::data(format!("{}: damaged list of a dataset: {}", list.display(), brief(&error)));
        error.hint("save the dataset again, or name its .arrow files")
    })
}
