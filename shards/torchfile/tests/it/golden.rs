use beit_torchfile::{Container, Object, TorchFile, Value, read_safetensors, state_dict};

use crate::golden;

fn module(name: &str) -> (TorchFile, std::sync::Arc<Object>) {
    let file = TorchFile::open(golden(name)).unwrap();
    let Value::Object(object) = file.root.clone() else { panic!("{:?}", file.root) };
    (file, object)
}

#[track_caller]
fn check_encoder(name: &str, container: Container) {
    let (file, encoder) = module(name);
    assert_eq!(file.container, container);
    assert_eq!(encoder.class.to_string(), "dall_e.encoder.Encoder");
    let expected = read_safetensors(golden("dalle-tiny/expected.safetensors")).unwrap();

    let parameters = encoder.named_parameters(&file.path).unwrap();
    assert_eq!(parameters.len(), 74);
    assert_eq!(parameters[0].0, "blocks.input.w");
    for (name, tensor) in &parameters {
        assert_eq!(Some(tensor), expected.get(&format!("enc.{name}")), "{name}");
    }
    assert_eq!(file.state_dict(&["model", "module"]).unwrap(), parameters);
}

#[test]
fn encoder_weights_equal_the_reference_in_the_zip_container() {
    check_encoder("dalle-tiny/encoder.pkl", Container::Zip);
}

#[test]
fn encoder_weights_equal_the_reference_in_the_legacy_container() {
    check_encoder("dalle-tiny/encoder.legacy.pkl", Container::Legacy);
}

#[test]
fn an_encoder_tells_its_settings() {
    for name in ["dalle-tiny/encoder.pkl", "dalle-tiny/encoder.legacy.pkl"] {
        let (_, encoder) = module(name);
        let int = |object: &Object, field| object.attr(field).and_then(Value::as_int);
        assert_eq!(int(&encoder, "n_hid"), Some(16));
        assert_eq!(int(&encoder, "vocab_size"), Some(64));
        assert_eq!(int(&encoder, "n_blk_per_group"), Some(2));
        let block = encoder.module("blocks.group_2.block_1").unwrap();
        assert_eq!(block.class.name, "EncoderBlock");
        assert_eq!(block.attr("post_gain").and_then(Value::as_float), Some(1.0 / 64.0));
        let names: Vec<&str> = block.children().map(|(name, _)| name).collect();
        assert_eq!(names, ["id_path", "res_path"]);
        let output = encoder.module("blocks.output.conv").unwrap();
        assert_eq!(output.attr("use_float16").and_then(Value::as_bool), Some(false));
        assert_eq!(output.attr("_parameters").unwrap().get("w").unwrap().as_tensor().unwrap().shape()[0], 64);
        assert!(encoder.module("blocks.group_9").is_none());
    }
}

#[test]
fn a_decoder_is_read_too() {
    let (file, decoder) = module("dalle-tiny/decoder.pkl");
    assert_eq!(decoder.class.to_string(), "dall_e.decoder.Decoder");
    let parameters = decoder.named_parameters(&file.path).unwrap();
    assert!(parameters.iter().any(|(name, _)| name == "blocks.group_4.block_2.res_path.conv_4.b"));
    assert!(decoder.module("blocks.group_1.upsample").unwrap().attr("scale_factor").is_some());
}

#[test]
fn a_state_dict_equals_the_module_it_came_from() {
    let (file, encoder) = module("dalle-tiny/encoder.pkl");
    let saved = state_dict(golden("dalle-tiny/encoder.state_dict.pth"), &["model"]).unwrap();
    assert_eq!(saved, encoder.named_tensors(&file.path).unwrap());
}

#[test]
fn a_pretraining_checkpoint_is_equal_in_both_containers() {
    let zip = state_dict(golden("beit-tiny/pretrain.pth"), &["model", "module"]).unwrap();
    let legacy = state_dict(golden("beit-tiny/pretrain.legacy.pth"), &["model", "module"]).unwrap();
    assert_eq!(zip, legacy);
    assert_eq!(zip[0].0, "cls_token");
    let index = &zip.iter().find(|(name, _)| name.ends_with("relative_position_index")).unwrap().1;
    assert_eq!(index.shape(), [17, 17]);
    assert_eq!(index.to_i64_vec().unwrap()[0], 51);
    let expected = read_safetensors(golden("beit-tiny/pretrain.expected.safetensors")).unwrap();
    for (name, gradient) in expected.tensors.iter().filter(|(name, _)| name.starts_with("grad.")) {
        let (_, weight) = zip.iter().find(|(weight, _)| name[5..] == *weight).unwrap();
        assert_eq!(gradient.shape(), weight.shape(), "{name}");
    }
}
