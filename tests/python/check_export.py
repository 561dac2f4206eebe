#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Models that kerf exports to transformers with modeling_kerf.py: `check_export.py CLAIM --exporter PROGRAM --models DIR`.

Each model with weights in DIR is exported, as it is and with another cut in every block, and the graphs of any_graph.py,
which no family has, as well. A claim is one of the test cases below.
"""
import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

WORK = tempfile.TemporaryDirectory(prefix="kerf-export.")
os.environ.update(HF_HOME=str(Path(WORK.name) / "huggingface"), HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error",
                  CUDA_VISIBLE_DEVICES="", HF_HUB_DISABLE_PROGRESS_BARS="1")

try:
    import numpy
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    import any_graph
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

OPTIONS = None
LENGTH = 40
PAD = 1  # any id: nothing may look at it


def relative(found, expected):
    """The largest difference, relative to the largest value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def models():
    found = sorted(file.parent for file in OPTIONS.models.glob("*/config.json")
                   if any((file.parent / name).exists() for name in ("model.safetensors", "pytorch_model.bin")))
    assert found, f"no model in {OPTIONS.models}"
    return found


def random_ids(vocabulary, samples=2, length=LENGTH):
    return torch.randint(3, vocabulary, (samples, length), generator=torch.Generator().manual_seed(length))


def export(model, cut=None):
    """The folder of the export, and the logits that kerf computes."""
    folder = Path(WORK.name) / "exports" / f"{cut or 'whole'}-{model.name}"
    config = json.loads((model / "config.json").read_text())
    vocabulary = config["kerf"]["graph"]["vocabulary"] if "kerf" in config else config["vocab_size"]
    ids = random_ids(vocabulary)
    if not folder.exists():
        save_file({"input_ids": ids}, WORK.name + "/ids.safetensors")
        subprocess.run([OPTIONS.exporter, model, folder, WORK.name + "/ids.safetensors", *filter(None, [cut])], check=True)
    logits = numpy.fromfile(folder / "kerf-logits.f32", dtype=numpy.float32)
    return folder, torch.from_numpy(logits).view(*ids.shape, vocabulary)


def load(folder, **options):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=True, dtype=torch.float32, output_loading_info=True, **options)
    assert type(model).__name__ == "KerfForCausalLM"
    assert not any(info.values()), f"{folder.name}: {info}"
    return model.eval()


def load_stock(folder):
    # Its plainest attention, as the fused one does without the soft caps of Gemma; but that one adds Falcon's ALiBi twice.
    alibi = json.loads((folder / "config.json").read_text()).get("alibi", False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32,
                                                 attn_implementation="sdpa" if alibi else "eager").eval()
    for module in model.modules():  # dropout is no part of the graph
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def generated(model, ids, **options):
    options = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": PAD, "eos_token_id": None, **options}
    options.setdefault("attention_mask", torch.ones_like(ids))
    return model.generate(ids, **options)[:, ids.shape[1]:]


def generated_logits(model, ids, **options):
    """Those that greedy generation chooses from, float32 [steps, samples, vocabulary]."""
    out = model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=PAD, eos_token_id=None,
                         attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True, **options)
    return torch.stack(out.logits)


def gradients(model, ids):
    model.zero_grad()
    with torch.enable_grad():
        model(ids, labels=ids).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def padded(ids, by):
    """The first sample with `by` ids of padding to its left, below it the second sample with other ids there."""
    left = torch.full((1, by), PAD)
    ids = torch.cat([torch.cat([left, ids[:1]], 1), torch.cat([ids[1:, :by], ids[1:]], 1)])
    mask = torch.ones_like(ids)
    mask[0, :by] = 0
    return ids, mask


def stock_and_export():
    for model in models():
        yield model.name, lambda model=model: (load(export(model)[0]), load_stock(model))


def exports():
    """The models with another cut in every block, and the graphs that no family has."""
    for model in models():
        yield f"ragged-{model.name}", lambda model=model: (load(export(model, "ragged")[0]),)
    for name in any_graph.GRAPHS:
        yield name, lambda name=name: (load(export(write_graph(name))[0]),)


def write_graph(name):
    return any_graph.write(any_graph.GRAPHS[name](), Path(WORK.name) / "graphs" / f"graph-{name}")


def of_each(cases):
    """Runs a test once for each of `cases`, each a subtest of its own, without gradients where none are asked for."""
    def decorate(test):
        @functools.wraps(test)
        def run(self):
            for name, make in cases():
                with self.subTest(name), torch.no_grad():
                    self.name = name
                    test(self, *make())
        return run
    return decorate


def ids_for(model):
    return random_ids(model.config.vocab_size)


class ExportComputesWhatTheStockClassComputes(unittest.TestCase):
    @of_each(stock_and_export)
    def test_logits_and_loss(self, ours, stock):
        ids = ids_for(ours)
        found, expected = ours(ids, labels=ids), stock(ids, labels=ids)
        self.assertLess(relative(found.logits, expected.logits), 1e-5)
        self.assertLess(abs(found.loss.item() / expected.loss.item() - 1), 1e-5)

    @of_each(stock_and_export)
    def test_logits_in_half_precision(self, ours, stock):
        """Two models of bfloat16 that round at the same places differ by a few units in the last place. Where two experts
        are nearly tied that decides which one a token goes to, and that token's logits are others altogether."""
        ids = ids_for(ours)
        found, expected = (model.bfloat16()(ids).logits.float() for model in (ours, stock))
        by_token = ((found - expected).abs().amax(-1) / expected.abs().max()).flatten()
        routed = any(op["op"] == "route" for block in ours.config.graph["blocks"] for op in block["ops"])
        self.assertLess(by_token.quantile(0.8 if routed else 1.0).item(), 0.05)

    @of_each(stock_and_export)
    def test_gradients(self, ours, stock):
        ids = ids_for(ours)
        found, expected = gradients(ours.train(), ids), gradients(stock.train(), ids)
        largest = max(gradient.abs().max() for gradient in found.values())
        shared = [name for name in found if name in expected and found[name].shape == expected[name].shape]
        self.assertGreater(len(shared), 4)  # experts have other names in the stock class
        for name in shared:
            self.assertLess((found[name] - expected[name]).abs().max() / largest, 1e-4, name)

    @of_each(stock_and_export)
    def test_greedy_generation(self, ours, stock):
        ids = ids_for(ours)
        self.assertTrue(generated(ours, ids).equal(generated(stock, ids)))

    @of_each(stock_and_export)
    def test_without_trust_in_its_code_nothing_is_loaded(self, ours, stock):
        with self.assertRaisesRegex(ValueError, "trust_remote_code"):
            AutoModelForCausalLM.from_pretrained(ours.name_or_path, trust_remote_code=False)


class ExportComputesWhatKerfComputes(unittest.TestCase):
    def test_logits_of_the_models(self):
        for model in models():
            with self.subTest(model.name), torch.no_grad():
                folder, expected = export(model)
                ours = load(folder)
                self.assertLess(relative(ours(ids_for(ours)).logits, expected), 1e-4)

    def test_logits_of_models_with_another_cut_in_every_block(self):
        for model in models():
            with self.subTest(model.name), torch.no_grad():
                folder, expected = export(model, "ragged")
                ours = load(folder)
                self.assertLess(relative(ours(ids_for(ours)).logits, expected), 1e-4)
                widths = [op["shape"] for block in ours.config.graph["blocks"] for op in block["ops"] if op["op"] == "linear"]
                self.assertGreater(len({tuple(shape) for shape in widths}), len(ours.config.graph["blocks"]))

    def test_logits_of_graphs_that_no_family_has(self):
        for name in any_graph.GRAPHS:
            for how in ("sdpa", "eager"):
                with self.subTest(name, attention=how), torch.no_grad():
                    folder, expected = export(write_graph(name))
                    ours = load(folder, attn_implementation=how)
                    self.assertLess(relative(ours(ids_for(ours)).logits, expected), 1e-5)


class ExportGenerates(unittest.TestCase):
    @of_each(exports)
    def test_with_a_cache_the_same_as_without(self, ours):
        ids = ids_for(ours)
        expected = generated(ours, ids, use_cache=False)
        self.assertTrue(generated(ours, ids).equal(expected))
        self.assertTrue(generated(ours, ids, cache_implementation="static").equal(expected), "static cache")

    def test_with_a_cache_the_same_as_without_past_longropes_turning_point(self):
        folder = any_graph.write(any_graph.turning_point(LENGTH + 4), Path(WORK.name) / "graphs" / "turning-point")
        ours = load(export(folder)[0])
        ids = ids_for(ours)
        self.assertLess(relative(generated_logits(ours, ids), generated_logits(ours, ids, use_cache=False)), 1e-5)

    @of_each(exports)
    def test_beams(self, ours):
        ids = ids_for(ours)
        options = {"num_beams": 3, "max_new_tokens": 8}
        self.assertTrue(generated(ours, ids, **options).equal(generated(ours, ids, use_cache=False, **options)))

    @of_each(exports)
    def test_a_prompt_in_two_pieces_gives_the_logits_of_the_whole(self, ours):
        ids = ids_for(ours)
        cut = 35  # longrope turns keys by other factors up to 32 tokens than beyond
        first = ours(ids[:, :cut], use_cache=True)
        second = ours(ids[:, cut:], past_key_values=first["cache" if "cache" in first else "past_key_values"])
        self.assertLess(relative(second.logits, ours(ids).logits[:, cut:]), 1e-5)

    @of_each(exports)
    def test_padding_to_the_left_changes_nothing(self, ours):
        ids = ids_for(ours)
        wide, mask = padded(ids, 7)
        self.assertLess(relative(ours(wide, attention_mask=mask).logits[0, 7:], ours(ids[:1]).logits[0]), 1e-5)
        expected = generated(ours, ids[:1])
        for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
            self.assertTrue(generated(ours, wide, attention_mask=mask, **options)[:1].equal(expected), str(options))

    @of_each(exports)
    def test_embeddings_can_stand_for_ids(self, ours):
        ids = ids_for(ours)
        self.assertLess(relative(ours(inputs_embeds=ours.get_input_embeddings()(ids)).logits, ours(ids).logits), 1e-6)

    @of_each(exports)
    def test_the_last_logits_alone(self, ours):
        ids = ids_for(ours)
        self.assertLess(relative(ours(ids, logits_to_keep=3).logits, ours(ids).logits[:, -3:]), 1e-5)


class ExportTrains(unittest.TestCase):
    @of_each(exports)
    def test_checkpointed_activations_give_the_same_gradients(self, ours):
        ids = ids_for(ours)
        expected = gradients(ours.train(), ids)
        ours.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        found = gradients(ours, ids)
        self.assertEqual(found.keys(), expected.keys())
        for name, gradient in found.items():
            self.assertTrue(gradient.equal(expected[name]), name)

    @of_each(exports)
    def test_a_trained_model_is_saved_and_read_by_transformers_and_by_kerf(self, ours):
        ids = ids_for(ours)
        before = ours(ids).logits
        gradients(ours.train(), ids)
        torch.optim.SGD(ours.parameters(), lr=1e-2).step()
        after = ours.eval()(ids).logits
        self.assertGreater(relative(after, before), 1e-4)
        folder = Path(WORK.name) / "saved" / f"tuned-{self.name}"
        ours.save_pretrained(folder)
        self.assertEqual(relative(load(folder)(ids).logits, after), 0)
        self.assertLess(relative(export(folder)[1], after), 1e-4)

    @of_each(exports)
    def test_more_tokens_can_be_added(self, ours):
        ids = ids_for(ours)
        expected, vocabulary = ours(ids).logits, ours.config.vocab_size
        ours.resize_token_embeddings(vocabulary + 5, mean_resizing=False)
        folder = Path(WORK.name) / "saved" / f"larger-{self.name}"
        ours.save_pretrained(folder)
        found = load(folder)(ids).logits
        self.assertEqual(found.shape[-1], vocabulary + 5)
        self.assertLess(relative(found[..., :vocabulary], expected), 1e-5)


def main():
    global OPTIONS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claim")
    parser.add_argument("--exporter", required=True, type=Path)
    parser.add_argument("--models", required=True, type=Path)
    OPTIONS = parser.parse_args()
    torch.set_num_threads(1)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(globals()[OPTIONS.claim])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == "__main__":
    sys.exit(main())
