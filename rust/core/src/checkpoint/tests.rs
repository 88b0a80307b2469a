use super::read::damaged;
use super::*;
use crate::config::ModelConfig;
use crate::model::Layout;
use proptest::prelude::*;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A separate path for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("symlm-checkpoint-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

type Tensor = (String, Vec<usize>, Vec<f32>);

fn example() -> Vec<Tensor> {
    let values = |n: usize| (0..n).map(|i| (i as f32 - 7.5) * 1.25e-3).collect::<Vec<f32>>();
    vec![
        ("model.norm.weight".into(), vec![5], values(5)),
        ("a".into(), vec![3, 7], values(21)),
        ("large".into(), vec![200, 101], values(20_200)),
        ("b".into(), vec![1], vec![f32::from_bits(1)]),
    ]
}

fn write(path: &Path, tensors: &[Tensor]) {
    let views: Vec<_> = tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.as_slice())).collect();
    write_tensors(path, &views).unwrap();
}

fn shapes(tensors: &[Tensor]) -> Vec<(String, Vec<usize>)> {
    tensors.iter().map(|(n, s, _)| (n.clone(), s.clone())).collect()
}

fn read(path: &Path, expected: &[(String, Vec<usize>)]) -> Result<Vec<Vec<f32>>> {
    let mut found = vec![Vec::new(); expected.len()];
    read_tensors(path, expected, &mut |i, values| found[i] = values.to_vec())?;
    Ok(found)
}

fn message(result: Result<Vec<Vec<f32>>>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Data);
    error.message
}

#[test]
fn what_is_written_is_read() {
    let (file, tensors) = (Scratch::new(), example());
    write(&file.0, &tensors);
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    for (found, (name, _, values)) in read(&file.0, &shapes(&tensors)).unwrap().iter().zip(&tensors) {
        assert_eq!(bits(found), bits(values), "{name}");
    }
}

#[test]
fn the_file_is_what_the_format_s_own_writer_makes() {
    let (file, mut tensors) = (Scratch::new(), example());
    write(&file.0, &tensors);
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|t| t.2.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|(t, b)| (t.0.clone(), safetensors::tensor::TensorView::new(Dtype::F32, t.1.clone(), b).unwrap()));
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let theirs = safetensors::serialize(views, Some(format)).unwrap();
    let ours = std::fs::read(&file.0).unwrap();
    assert!(ours == theirs);
    assert!(ours[LENGTH_BYTES..].starts_with(br#"{"__metadata__":{"format":"pt"},"#));
    let sum = |tensors: &[Tensor]| {
        let views: Vec<_> = tensors.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.as_slice())).collect();
        hash_tensors(&views).unwrap()
    };
    assert_eq!(sum(&tensors), hex(&Sha256::digest(&ours)));
    // The order of the arguments does not matter.
    tensors.reverse();
    assert_eq!(sum(&tensors), hex(&Sha256::digest(&ours)));
    write(&file.0, &tensors);
    assert!(std::fs::read(&file.0).unwrap() == ours);
}

#[test]
fn errors_name_the_file_and_the_tensor() {
    let (file, tensors) = (Scratch::new(), example());
    write(&file.0, &tensors);
    let path = file.0.display().to_string();
    let mut expected = shapes(&tensors);
    expected[1].1 = vec![7, 3];
    assert_eq!(message(read(&file.0, &expected)), format!("{path}: tensor a: found shape [3, 7], expected [7, 3]"));
    expected[1] = ("c".into(), vec![3, 7]);
    assert_eq!(message(read(&file.0, &expected)), format!("{path}: tensor c: missing"));
    expected.remove(1);
    assert_eq!(message(read(&file.0, &expected)), format!("{path}: found 4 tensors, expected 3; unknown: \"a\""));
    assert!(message(read(Path::new("/nonexistent"), &expected)).starts_with("cannot read /nonexistent"));
    let views = [("t".to_owned(), safetensors::tensor::TensorView::new(Dtype::I32, vec![1], &[0; 4]).unwrap())];
    std::fs::write(&file.0, safetensors::serialize(views, None).unwrap()).unwrap();
    assert_eq!(
        message(read(&file.0, &[("t".into(), vec![1])])),
        format!("{path}: tensor t: found type I32, expected F32")
    );
}

#[test]
fn shapes_that_do_not_fit_the_elements_and_double_names_are_refused() {
    let file = Scratch::new();
    let values = [0.0; 6];
    assert!(write_tensors(&file.0, &[("a".into(), vec![7], &values)]).is_err());
    assert!(write_tensors(&file.0, &[("a".into(), vec![6], &values), ("a".into(), vec![6], &values)]).is_err());
}

fn small() -> Vec<Tensor> {
    vec![("ab".into(), vec![2, 2], vec![1.0, 2.0, 3.0, 4.0]), ("cd".into(), vec![3], vec![5.0, 6.0, 7.0])]
}

proptest! {
    #[test]
    fn a_cut_or_longer_file_is_refused(cut in 0_usize..400) {
        let file = Scratch::new();
        write(&file.0, &small());
        let mut bytes = std::fs::read(&file.0).unwrap();
        let whole = bytes.len();
        bytes.resize(cut, 0);
        std::fs::write(&file.0, &bytes).unwrap();
        prop_assert!(cut == whole || read(&file.0, &shapes(&small())).is_err());
    }

    /// A flipped bit gives an error or tensors of the right shape, and no panic.
    #[test]
    fn flipped_bits_do_no_harm(flips in prop::collection::vec((0_usize..400, 0_u8..8), 1..4)) {
        let file = Scratch::new();
        write(&file.0, &small());
        let mut bytes = std::fs::read(&file.0).unwrap();
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        std::fs::write(&file.0, &bytes).unwrap();
        match read(&file.0, &shapes(&small())) {
            Ok(found) => prop_assert_eq!((found[0].len(), found[1].len()), (4, 3)),
            Err(error) => prop_assert!(!error.message.contains('\n')),
        }
    }

    #[test]
    fn hostile_headers_do_no_harm(
        header in "\\{(\"(ab|cd|__metadata__)\":\\{\"dtype\":\"(F32|F4|BF16)\",\"shape\":\\[[0-9]{1,20}(,[0-9]{1,20})?\\],\
                   \"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\},?){0,3}\\}",
        length in prop_oneof![Just(None), any::<u64>().prop_map(Some)],
        data in 0_usize..40,
    ) {
        let file = Scratch::new();
        let mut bytes = length.unwrap_or(header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        std::fs::write(&file.0, &bytes).unwrap();
        prop_assert!(read(&file.0, &shapes(&small())).is_err());
    }
}

/// A small model, its tensors, and a folder for its files.
struct Whole {
    layout: Layout,
    tensors: Vec<Tensor>,
    folder: tempfile::TempDir,
}

impl Whole {
    fn new(tied: bool) -> Self {
        let json = format!(
            r#"{{"vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_layers": 2, "num_heads": 2,
                "num_kv_heads": 1, "seq_len": 10, "rope_theta": 1e4, "rms_norm_eps": 1e-5, "tie_embeddings": {tied}}}"#
        );
        let layout = Layout::new(&serde_json::from_str::<ModelConfig>(&json).unwrap());
        let tensors = layout.params.iter().enumerate().map(|(number, param)| {
            // Numbers that all three types hold exactly.
            let values = (0..param.len()).map(|i| ((i * 7 + number) % 64) as f32 / 32.0 - 1.0);
            (param.name.clone(), param.shape.clone(), values.collect())
        });
        Self { tensors: tensors.collect(), layout, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes tensors of a type; gives the path.
    fn write(&self, name: &str, tensors: &[Tensor], dtype: Dtype) -> PathBuf {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|t| t.2.iter().flat_map(|x| encoded(*x, dtype)).collect()).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|(t, b)| (t.0.clone(), safetensors::tensor::TensorView::new(dtype, t.1.clone(), b).unwrap()));
        std::fs::write(self.path(name), safetensors::serialize(views, None).unwrap()).unwrap();
        self.path(name)
    }

    /// Two files and their index.
    fn shard(&self) -> PathBuf {
        let (a, b) = self.tensors.split_at(5);
        self.write("a.safetensors", a, Dtype::F32);
        self.write("b.safetensors", b, Dtype::BF16);
        let map = |tensors: &[Tensor], file: &str| {
            tensors.iter().map(|t| (t.0.clone(), serde_json::Value::from(file))).collect::<Vec<_>>()
        };
        let all = map(a, "a.safetensors").into_iter().chain(map(b, "b.safetensors"));
        self.index(
            &serde_json::json!({"metadata": {"total_size": 1}, "weight_map": all.collect::<serde_json::Map<_, _>>()}),
        )
    }

    fn index(&self, index: &serde_json::Value) -> PathBuf {
        let path = self.path("model.safetensors.index.json");
        std::fs::write(&path, index.to_string()).unwrap();
        path
    }

    fn read(&self, path: &Path) -> Result<Vec<Tensor>> {
        let mut found = Vec::new();
        read_model(path, &self.layout, &mut |index, values| {
            let param = &self.layout.params[index];
            found.push((param.name.clone(), param.shape.clone(), values.to_vec()));
        })?;
        Ok(found)
    }

    fn refused(&self, path: &Path) -> String {
        let error = self.read(path).unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Data, "{error}");
        error.message
    }
}

/// A number that the type holds exactly.
fn encoded(x: f32, dtype: Dtype) -> Vec<u8> {
    let bits = x.to_bits();
    match dtype {
        Dtype::BF16 => ((bits >> 16) as u16).to_le_bytes().into(),
        Dtype::F16 if x == 0.0 => ((bits >> 16) as u16).to_le_bytes().into(),
        Dtype::F16 => {
            let exponent = (bits >> 23 & 0xff) - 112;
            ((bits >> 16 & 0x8000 | exponent << 10 | bits >> 13 & 0x3ff) as u16).to_le_bytes().into()
        }
        _ => x.to_le_bytes().into(),
    }
}

#[test]
fn a_model_is_read_in_every_type_from_one_file_or_several() {
    for tied in [true, false] {
        let whole = Whole::new(tied);
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let path = whole.write("model.safetensors", &whole.tensors, dtype);
            assert_eq!(whole.read(&path).unwrap(), whole.tensors, "{dtype}");
        }
        assert_eq!(whole.read(&whole.shard()).unwrap(), whole.tensors);
    }
}

#[test]
fn tables_of_old_models_and_a_head_that_is_the_embedding_are_passed_over() {
    let whole = Whole::new(true);
    let mut tensors = whole.tensors.clone();
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), vec![2], vec![1.0, 0.5]));
    let embedding = tensors[0].clone();
    tensors.push(("lm_head.weight".into(), embedding.1, embedding.2));
    let path = whole.write("model.safetensors", &tensors, Dtype::F32);
    assert_eq!(whole.read(&path).unwrap(), whole.tensors);
    tensors.last_mut().unwrap().2[80] += 1.0;
    let path = whole.write("model.safetensors", &tensors, Dtype::F32);
    assert!(
        whole
            .refused(&path)
            .ends_with("lm_head.weight: found another matrix than model.embed_tokens.weight, expected the same")
    );
    tensors.last_mut().unwrap().1 = vec![8, 11];
    let path = whole.write("model.safetensors", &tensors, Dtype::F32);
    assert!(whole.refused(&path).ends_with("lm_head.weight: found shape [8, 11], expected [11, 8]"));
}

#[test]
fn what_is_not_the_model_is_named() {
    let whole = Whole::new(false);
    let write = |tensors: &[Tensor]| whole.write("model.safetensors", tensors, Dtype::F32);
    let at = |name: &str| whole.tensors.iter().position(|t| t.0 == name).unwrap();

    let mut tensors = whole.tensors.clone();
    tensors.remove(at("lm_head.weight"));
    assert!(whole.refused(&write(&tensors)).ends_with("tensor lm_head.weight: missing"));

    let mut tensors = whole.tensors.clone();
    tensors[at("model.norm.weight")].1 = vec![2, 4];
    assert!(whole.refused(&write(&tensors)).ends_with("model.norm.weight: found shape [2, 4], expected [8]"));

    let mut tensors = whole.tensors.clone();
    tensors.push(("model.layers.0.self_attn.q_proj.bias".into(), vec![8], vec![0.0; 8]));
    assert!(whole.refused(&write(&tensors)).ends_with("unknown: \"model.layers.0.self_attn.q_proj.bias\""));

    let path = whole.write("model.safetensors", &whole.tensors, Dtype::I32);
    let expected = "tensor model.embed_tokens.weight: found type I32, expected F32 or F16 or BF16";
    assert!(whole.refused(&path).ends_with(expected));
}

#[test]
fn an_index_leads_to_files_of_its_folder_that_hold_what_it_says() {
    let whole = Whole::new(true);
    let path = whole.shard();
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let name = "model.norm.weight";
    let with = |file: &str| {
        let mut index = index.clone();
        index["weight_map"][name] = file.into();
        whole.index(&index)
    };
    for outside in
        ["../b.safetensors", "/etc/passwd", "sub/b.safetensors", "..", "", ".b.safetensors", "b.bin", "b\0.safetensors"]
    {
        assert!(
            whole.refused(&with(outside)).contains("expected that of a .safetensors file in the same folder"),
            "{outside}"
        );
    }
    assert!(whole.refused(&with("c.safetensors")).starts_with("cannot read "));
    assert!(
        whole.refused(&with("a.safetensors")).ends_with("tensor model.norm.weight: missing, the index has it here")
    );

    let mut less = index.clone();
    less["weight_map"].as_object_mut().unwrap().remove(name);
    assert!(
        whole.refused(&whole.index(&less)).ends_with("tensor model.norm.weight: found here, but not so in the index")
    );
    for broken in
        [serde_json::json!({}), serde_json::json!({"weight_map": {}}), serde_json::json!({"weight_map": {"a": 1}})]
    {
        assert!(whole.refused(&whole.index(&broken)).contains("index: "), "{broken}");
    }
    std::fs::write(&path, r#"{"weight_map": {"a": "b.safetensors", "a": "b.safetensors"}}"#).unwrap();
    assert!(whole.refused(&path).contains("tensor a twice"));
    let many: serde_json::Map<_, _> = (0..300).map(|i| (format!("t{i}"), format!("f{i}.safetensors").into())).collect();
    for i in 0..300 {
        whole.write(&format!("f{i}.safetensors"), &[(format!("t{i}"), vec![1], vec![0.0])], Dtype::F32);
    }
    assert!(whole.refused(&whole.index(&serde_json::json!({"weight_map": many}))).contains("more than 256 files"));
    std::fs::write(&path, vec![b' '; 2 << 20]).unwrap();
    assert!(whole.refused(&path).contains("expected an index of at most that"));
}

#[test]
fn messages_about_files_have_no_control_characters() {
    assert!(!damaged(Path::new("a"), "b\u{1b}[2J".into()).message.contains('\u{1b}'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A cut or changed file of a model gives an error or the same number of elements, and no panic.
    #[test]
    fn damaged_files_of_a_model_do_no_harm(
        cut in prop::option::of(0_usize..4000),
        flips in prop::collection::vec((0_usize..4000, 0_u8..8), 0..4),
        which in 0_usize..3,
    ) {
        let whole = Whole::new(true);
        let index = whole.shard();
        let file = [index.clone(), whole.path("a.safetensors"), whole.path("b.safetensors")][which].clone();
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(cut) = cut {
            bytes.truncate(cut);
        }
        for (at, bit) in flips {
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
        }
        std::fs::write(&file, &bytes).unwrap();
        match whole.read(&index) {
            Ok(found) => {
                let elements = |tensors: &[Tensor]| tensors.iter().map(|t| t.2.len()).collect::<Vec<_>>();
                prop_assert_eq!(elements(&found), elements(&whole.tensors));
            }
            Err(error) => prop_assert!(error.message.len() < 2000 && !error.message.contains('\n')),
        }
    }
}
