//! The weights of a model as transformers leaves them: in one file or several, in f32, f16 or bf16.

use super::read::{TensorFile, damaged};
use crate::error::{Error, Result, brief};
use crate::model::Layout;
use crate::system::files::open_regular;
use safetensors::tensor::Dtype;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Types of tensors that f32 holds exactly.
const TYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];
/// The output head where it is a separate tensor, and the embedding, which serves as the head where it is not.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
/// Ends the names of tables that old models carry along; they follow from the configuration.
const ROTARY_TABLE: &str = "rotary_emb.inv_freq";
/// Files of one model, all open at once.
const MOST_FILES: usize = 256;
/// Bytes of the longest file name.
const MOST_NAME_BYTES: usize = 255;
/// Bytes of an index for each expected tensor, and those granted to any.
const INDEX_PER_TENSOR: u64 = 1024;
const INDEX_BASE: u64 = 1 << 20;

/// Reads the tensors of the table from `path`, a `.safetensors` file or the `.json` index of several in its folder, and
/// hands each, as f32 and with its place in the table, to `sink`.
///
/// Rotary tables of old models are passed over, and so is a head that is the embedding again. Everything else that is not
/// exactly the model is an error; all but the elements is checked before the first call of `sink`.
///
/// # Errors
/// `Data` with the file, and the tensor if it is about one.
pub fn read_model(path: &Path, layout: &Layout, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
    let files = Files::open(path, layout.params.len())?;
    let tied = !layout.params.iter().any(|param| param.name == HEAD);
    let mut places = Vec::with_capacity(layout.params.len());
    for param in &layout.params {
        let file = files.of(&param.name).map_err(|error| match param.name == HEAD {
            true => error.hint("the head is the embedding? then config.json should say \"tie_word_embeddings\": true"),
            false => error,
        })?;
        file.check(&param.name, &param.shape, &TYPES)?;
        places.push(file);
    }
    let names: HashSet<&str> = layout.params.iter().map(|param| param.name.as_str()).collect();
    let known = |name: &str| names.contains(name) || name == HEAD || name.ends_with(ROTARY_TABLE);
    for file in &files.files {
        file.check_known(layout.params.len(), &known)?;
    }
    if tied && let Ok(head) = files.of(HEAD) {
        let embedding = files.of(EMBEDDING)?;
        let shape = layout.params.iter().find(|param| param.name == EMBEDDING).map(|param| param.shape.clone());
        head.check(HEAD, &shape.unwrap_or_default(), &TYPES)?;
        if !same_elements((head, HEAD), (embedding, EMBEDDING))? {
            let what = format!("tensor {HEAD}: found another matrix than {EMBEDDING}, expected the same");
            return Err(damaged(&head.path, what)
                .hint("config.json says that both are one (tie_word_embeddings); false there keeps them apart"));
        }
    }
    let mut values = Vec::new();
    for (index, (param, file)) in layout.params.iter().zip(places).enumerate() {
        file.read(&param.name, &mut values)?;
        sink(index, &values);
    }
    Ok(())
}

/// Whether two tensors have the same elements, compared part by part.
fn same_elements(a: (&TensorFile, &str), b: (&TensorFile, &str)) -> Result<bool> {
    // One side is held, so that neither file is read twice in turns.
    let mut first = Vec::new();
    a.0.read(a.1, &mut first)?;
    let (mut at, mut same) = (0, true);
    b.0.chunks(b.1, &mut |part| {
        let bits = |x: &f32| x.to_bits();
        same = first.get(at..at + part.len()).is_some_and(|own| own.iter().map(bits).eq(part.iter().map(bits)));
        at += part.len();
        same
    })?;
    Ok(same)
}

/// The open files of a model, and which tensor is where.
struct Files {
    files: Vec<TensorFile>,
    /// Of an index: name of a tensor, number of its file.
    places: Option<HashMap<String, usize>>,
    path: PathBuf,
}

impl Files {
    fn open(path: &Path, tensors: usize) -> Result<Self> {
        let owned = path.to_owned();
        if path.extension().is_none_or(|end| end != "json") {
            return Ok(Self { files: vec![TensorFile::open(path, tensors)?], places: None, path: owned });
        }
        let index = read_index(path, tensors)?;
        index.values().try_for_each(|file| check_name(path, file))?;
        let mut numbers = BTreeMap::new();
        let mut files = Vec::new();
        let mut places = HashMap::new();
        for (name, file) in index {
            let number = match numbers.get(&file) {
                Some(number) => *number,
                None if files.len() == MOST_FILES => {
                    return Err(damaged(path, format!("found more than {MOST_FILES} files, expected at most that")));
                }
                None => {
                    files.push(TensorFile::open(&path.with_file_name(&file), tensors)?);
                    numbers.insert(file, files.len() - 1);
                    files.len() - 1
                }
            };
            places.insert(name, number);
        }
        let found = Self { files, places: Some(places), path: owned };
        found.check_places()?;
        Ok(found)
    }

    /// The index and the files must agree on which tensor is where.
    fn check_places(&self) -> Result<()> {
        let Some(places) = &self.places else { return Ok(()) };
        let mut names: Vec<_> = places.iter().collect();
        names.sort();
        for (name, number) in names {
            if !self.files[*number].has(name) {
                let name = brief(name);
                return Err(damaged(
                    &self.files[*number].path,
                    format!("tensor {name}: missing, the index has it here"),
                ));
            }
        }
        for (number, file) in self.files.iter().enumerate() {
            if let Some(name) = file.names().iter().find(|name| places.get(*name) != Some(&number)) {
                let name = brief(name);
                return Err(damaged(&file.path, format!("tensor {name}: found here, but not so in the index")));
            }
        }
        Ok(())
    }

    /// The file that holds a tensor.
    fn of(&self, name: &str) -> Result<&TensorFile> {
        let found = match &self.places {
            None => self.files.first().filter(|file| file.has(name)),
            Some(places) => places.get(name).and_then(|number| self.files.get(*number)),
        };
        found.ok_or_else(|| damaged(&self.path, format!("tensor {name}: missing")))
    }
}

/// A name leads to a safetensors file of the folder and nowhere else.
fn check_name(index: &Path, name: &str) -> Result<()> {
    let plain = name.len() <= MOST_NAME_BYTES && name.ends_with(".safetensors") && !name.starts_with('.');
    if plain && !name.contains(['/', '\\', '\0']) {
        return Ok(());
    }
    let name = brief(&name);
    Err(damaged(
        index,
        format!("found the file name {name:?}, expected that of a .safetensors file in the same folder"),
    ))
}

/// What is used of `model.safetensors.index.json`.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Index {
    weight_map: WeightMap,
}

/// Name of a tensor, name of its file; sorted, so that files are opened and errors found in one order.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Table;
        impl<'de> Visitor<'de> for Table {
            type Value = WeightMap;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object of tensors and their files")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<WeightMap, A::Error> {
                let mut found = BTreeMap::new();
                while let Some((name, file)) = map.next_entry::<String, String>()? {
                    if found.contains_key(&name) {
                        return Err(A::Error::custom(format!("tensor {name} twice")));
                    }
                    found.insert(name, file);
                }
                Ok(WeightMap(found))
            }
        }
        deserializer.deserialize_map(Table)
    }
}

/// Reads an index; its size bounds what it can hold.
fn read_index(path: &Path, tensors: usize) -> Result<BTreeMap<String, String>> {
    let cannot_read = |e: std::io::Error| Error::cannot_read(path, &e);
    let most = INDEX_BASE + INDEX_PER_TENSOR * tensors as u64;
    let (file, _) = open_regular(path).map_err(cannot_read)?;
    let mut json = Vec::new();
    file.take(most + 1).read_to_end(&mut json).map_err(cannot_read)?;
    if json.len() as u64 > most {
        return Err(damaged(path, format!("found more than {most} bytes, expected an index of at most that")));
    }
    let index: Index = serde_json::from_slice(&json).map_err(|e| damaged(path, format!("index: {}", brief(&e))))?;
    if index.weight_map.0.is_empty() {
        return Err(damaged(path, "index: found no tensors".into()));
    }
    Ok(index.weight_map.0)
}
