"""Models: loading back with attention, LoRA, dropout, scratch sizes, languages."""

import shutil

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartTokenizer,
    ModernBertConfig,
    Starcoder2Config,
)

import finetune
from finetune.attention.interface import LAYER
from finetune.errors import UserError
from finetune.models.builder import build_model
from finetune.models.languages import set_languages
from finetune.models.pretrained import build_tokenizer, set_dropout
from finetune.models.scratch import BERT, MARIAN, train_tokenizer
from finetune.objectives import of
from finetune.records import store
from tests.support.configurations import configuration
from tests.support.small_runs import folder, predict, run
from tests.support.trained import GRID

TEXTS = ["one two three four five", "six seven eight nine ten", "eleven twelve"] * 5


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "translate"])
def test_run_folder_loads_with_its_variant_and_predicts_the_same(tmp_path, verb):
    assert run(verb, tmp_path, "--attention", "sa-softmax", "--attention.parameters.eps", "0.5") == 0
    where = next(tmp_path.glob("*/*/sa-softmax-eps0.5/seed-0"))
    model, answers = predict(where)
    assert answers == {row["row"]: row["prediction"] for row in store.read_predictions(where)}
    settings = [getattr(module, LAYER) for module in model.modules() if hasattr(module, LAYER)]
    assert {setting.variant.parameters["eps"] for setting in settings} == {0.5}


def test_lora_run_loads_with_its_variant_and_predicts_the_same(trained, tmp_path):
    base = folder("classify", trained("classify", *GRID))
    lora = ["--model", str(base), "--model.lora.rank", "3", "--train.learning_rate", "1e-2"]
    assert run("classify", tmp_path / "lora", "--attention", "sa-softmax", *lora) == 0
    where = next((tmp_path / "lora").glob("*/*lora3/sa-softmax/seed-0"))
    assert (where / "adapter_model.safetensors").is_file() and not (where / "model.safetensors").exists()
    found = store.read(where)
    assert found["model"]["trainable"] < found["model"]["parameters"]
    assert found["attention"]["layers"] == {"encoder": 2}
    _, answers = predict(where)
    assert answers == {row["row"]: row["prediction"] for row in store.read_predictions(where)}


@pytest.mark.slow
def test_translation_adapters_load_with_generation_settings(trained, tmp_path):
    base = folder("translate", trained("translate", "--attention", "softmax"))
    lora = ["--model", str(base), "--model.lora.rank", "2", "--train.learning_rate", "1e-2"]
    lora += ["--generation.num_beams", "2", "--generation.max_new_tokens", "9"]
    assert run("translate", tmp_path / "lora", "--attention", "sa-softmax", *lora) == 0
    where = next((tmp_path / "lora").glob("*/*lora2/sa-softmax/seed-0"))
    used = store.read(where)["metrics"]["bleu"]["generation"]
    assert (used["num_beams"], used["max_length"]) == (2, 10)
    model, answers = predict(where)
    assert model.generation_config.num_beams == 2
    assert answers == {row["row"]: row["prediction"] for row in store.read_predictions(where)}


@pytest.mark.slow
def test_search_settings_of_a_checkpoint_do_not_slip_in(trained, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(folder("translate", trained("translate", "--attention", "softmax")), base)
    own = GenerationConfig.from_pretrained(base)
    own.update(max_length=None, max_new_tokens=3, min_length=2, no_repeat_ngram_size=2, num_beams=4)
    own.save_pretrained(base)
    config = configuration("translation", model={"name": str(base)})
    used = build_model(config, of(config), iter(TEXTS), None).model.generation_config
    assert (used.num_beams, used.max_length, used.max_new_tokens) == (1, 65, None)
    assert (used.min_length, used.no_repeat_ngram_size) == (None, None)
    assert used.decoder_start_token_id == own.decoder_start_token_id


def test_head_for_other_classes_is_new(trained):
    config = configuration(model={"name": str(folder("classify", trained("classify", *GRID)))})
    model = build_model(config, of(config), iter(TEXTS), ("a", "b", "c")).model
    assert model.config.num_labels == 3 and model.classifier.out_features == 3


def test_multilingual_tokenizer_that_is_not_known_is_refused():
    class PLBartTokenizer:
        def __init__(self, src_lang=None):
            """One with languages of its own."""

    with pytest.raises(UserError, match="PLBartTokenizer needs languages"):
        set_languages(PLBartTokenizer(), "de-en")


def test_initial_weights_name_the_seed_and_not_the_variant():
    def weights(variant, seed):
        config = configuration(attention={"variant": variant}, seed=seed)
        return build_model(config, of(config), iter(TEXTS), ("a", "b")).info["initial_weights"]

    assert weights("softmax", 0) == weights("sa-softmax", 0) != weights("softmax", 1)


@pytest.mark.slow
def test_decoder_classifies_from_a_local_folder(tmp_path):
    """GPT-2 has no padding token: rows of unequal length in one batch need one."""
    tokenizer = train_tokenizer(MARIAN.recipe, iter(TEXTS), 300)
    tokenizer.pad_token = None
    sizes = {"n_layer": 2, "n_head": 3, "n_embd": 24, "n_positions": 64}
    stock = GPT2Config(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **sizes)
    AutoModelForCausalLM.from_config(stock).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    assert run("classify", tmp_path, "--model", str(tmp_path / "gpt"), "--attention", "sa-softmax") == 0
    where = tmp_path / "agnews/gpt/sa-softmax/seed-0"
    assert store.read(where)["attention"]["layers"] == {"decoder": 2}
    _, answers = predict(where)
    assert answers == {row["row"]: row["prediction"] for row in store.read_predictions(where)}


def test_load_refuses_a_folder_without_a_run(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        finetune.load(tmp_path)


def test_dropout_rates_are_set_by_role():
    config = configuration(model={"dropout": 0.25, "attention_dropout": 0.05})
    built = build_model(config, of(config), iter(TEXTS), ("a", "b", "c"))
    assert built.model.config.hidden_dropout_prob == 0.25
    assert built.swap.dropout == pytest.approx(0.05)
    assert built.model.config.id2label == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize(
    ("stock", "rates"),
    [
        (ModernBertConfig, {"embedding_dropout", "mlp_dropout"}),
        (GPTNeoConfig, {"embed_dropout", "resid_dropout"}),
        (Starcoder2Config, {"embedding_dropout", "residual_dropout"}),
        (GPT2Config, {"embd_pdrop", "resid_pdrop"}),
        (GPTNeoXConfig, {"hidden_dropout"}),
    ],
)
def test_dropout_reaches_every_rate_of_the_hidden_states(stock, rates):
    config = stock()
    set_dropout(config, configuration(model={"dropout": 0.25, "attention_dropout": None}))
    assert {name for name, value in config.to_dict().items() if value == 0.25} == rates


def test_a_modernbert_that_read_masked_tokens_is_a_classifier_that_reads_the_whole_text(tmp_path):
    """Its layers all see the whole text, and its head the mean of it, from a folder too."""
    model = {"name": "scratch:modernbert-tiny", "vocab_size": 300}
    config = configuration("masked", model=model, data={"max_length": 200})
    encoder = build_model(config, of(config), iter(TEXTS), None)
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    fresh = configuration(model=model)
    labels = ("a", "b")
    built = [
        build_model(each, of(each), iter(TEXTS), labels)
        for each in (fresh, configuration(model={"name": str(tmp_path)}))
    ]
    for each in built:
        stock = each.model.config
        assert stock.classifier_pooling == "mean" and stock.max_position_embeddings == 512
        assert [rope["rope_theta"] for rope in stock.rope_parameters.values()] == [10_000, 10_000]
        assert each.model.eval() and stock.layer_types == ["full_attention"] * 2
        size = len(each.tokenizer)
        text = torch.randint(5, size, (1, 200), generator=torch.Generator().manual_seed(0))
        other = text.clone()
        other[0, -1] = 5 + (text[0, -1] - 4) % (size - 5)
        with torch.no_grad():
            one, two = (each.model.model(input_ids=ids).last_hidden_state[0, 0] for ids in (text, other))
        assert not torch.equal(one, two)
    weights, loaded = encoder.model.state_dict(), built[1].model.state_dict()
    body = [name for name in weights if name.startswith("model.")]
    assert body and all(torch.equal(weights[name], loaded[name]) for name in body)


def test_generation_settings_reach_the_model():
    config = configuration(
        "translation", generation={"num_beams": 3, "length_penalty": 0.7, "max_new_tokens": 11}
    )
    model = build_model(config, of(config), iter(TEXTS), None).model
    out = model.generate(torch.tensor([[5, 6, 7, model.config.eos_token_id]]))
    assert out.shape[-1] <= 12
    assert (model.generation_config.num_beams, model.generation_config.length_penalty) == (3, 0.7)


@pytest.mark.parametrize("kind", ["classification", "translation"])
def test_scratch_tokenizer_is_the_same_every_time(kind):
    config = configuration(kind, model={"vocab_size": 290})
    one, two = (build_tokenizer(config, of(config).scratch.recipe, iter(TEXTS)) for _ in range(2))
    assert one.get_vocab() == two.get_vocab()
    assert one("five six")["input_ids"] == two("five six")["input_ids"]
    assert one.decode(one("five six")["input_ids"], skip_special_tokens=True).strip() == "five six"


def test_scratch_sizes_divide_into_heads():
    for size in BERT.sizes.values():
        assert size["hidden_size"] % size["num_attention_heads"] == 0
    for size in MARIAN.sizes.values():
        assert size["d_model"] % size["encoder_attention_heads"] == 0


def test_unknown_scratch_size_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'small'"):
        config = configuration(model={"name": "scratch:smal"})
        build_model(config, of(config), iter(TEXTS), ("a", "b"))


def test_mbart_starts_the_decoder_with_the_target_language():
    tokenizer = MBartTokenizer(
        vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)]
    )
    settings = set_languages(tokenizer, "de-en")
    assert settings == {"decoder_start_token_id": tokenizer.convert_tokens_to_ids("en_XX")}
    assert tokenizer("a")["input_ids"][-1] == tokenizer.convert_tokens_to_ids("de_DE")
    assert tokenizer(text_target="a")["input_ids"][-1] == tokenizer.convert_tokens_to_ids("en_XX")
    with pytest.raises(UserError, match="language"):
        set_languages(tokenizer, "de-xx")


def test_mbart50_forces_the_target_language():
    tokenizer = MBart50Tokenizer(
        vocab=[("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)]
    )
    assert set_languages(tokenizer, "fr-de") == {
        "forced_bos_token_id": tokenizer.convert_tokens_to_ids("de_DE")
    }
    assert tokenizer("a")["input_ids"][0] == tokenizer.convert_tokens_to_ids("fr_XX")


def test_tokenizer_without_languages_is_left_alone():
    from transformers import PreTrainedTokenizerFast

    assert set_languages(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), "de-en") == {}
    assert M2M100Tokenizer.__name__ == "M2M100Tokenizer"  # the key of its row in languages.TARGET_LAYER
