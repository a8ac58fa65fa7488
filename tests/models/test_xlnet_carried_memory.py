"""XLNet carries its memory from call to call, as a loop that hands `mems` on, and through Keras' `fit`."""

import numpy as np
import pytest

from tests.helpers import KERAS, XLNET, assert_close, each_side, far, inputs_for
from xlcore import ConfigError, ShapeError

LM = XLNET["permutation_lm"]
KEYS = [{"mem_len": 5}, {"mem_len": 6, "reuse_len": 3, "bi_data": True}, {"mem_len": 4, "attn_type": "uni"}]
TWO_STREAMS = ("input_ids", "perm_mask", "target_mapping", "token_type_ids", "labels")
each_config = pytest.mark.parametrize("keys", KEYS, ids=str)


def windows(config, names=TWO_STREAMS, count=4, B=2):
    return [inputs_for(LM, config, *names, B=B, T=6, seed=number) for number in range(count)]


def handed_on(side, model, config, batches):
    """Return losses of windows, each with the memory that the one before it left; the first begins with zeros."""
    mems, losses = [np.zeros((config.mem_len, 2, config.d_model), "float32")] * config.n_layer, []
    for batch in batches:
        found = side.run(model, {**batch, "mems": mems, "use_mems": True})
        mems = [found[f"mems.{layer}"] for layer in range(config.n_layer)]
        losses.append(float(found["loss"]))
    return losses


@each_config
@each_side
def test_carried_memory_equals_memory_handed_on(side, keys):
    config = LM.config(**keys)
    model, batches = side.model(LM, config), windows(config)
    wanted = handed_on(side, model, config, batches)
    alone = float(side.run(model, batches[1])["loss"])
    model.carry_memory(2)
    assert_close([float(side.run(model, batch)["loss"]) for batch in batches], wanted, "equal")
    with pytest.raises(ShapeError, match=r"XLNetModel: a batch must have the 2 rows whose memory is carried.*, got 4"):
        side.run(model, windows(config, B=4)[0])
    model.reset_memory()
    assert_close(float(side.run(model, batches[0])["loss"]), wanted[0], "equal")
    model.drop_memory()
    assert_close(float(side.run(model, batches[1])["loss"]), alone, "equal")
    assert abs(alone - wanted[1]) > 1e-3


@each_side
def test_the_length_of_memory(side):
    """Zeros at the start; the length can be set anew, but not while memory is carried. Without one, nothing is."""
    model = side.model(LM, LM.config(mem_len=5))
    assert [side.numpy(memory).shape for memory in model.init_mems(3)] == [(5, 3, 12)] * 2
    ids = windows(LM.config(), ("input_ids",))[0]
    model.reset_memory_length(3)
    assert side.run(model, {**ids, "use_mems": True})["mems.0"].shape[0] == 3
    model.carry_memory(2)
    with pytest.raises(ConfigError, match="the memory's length must stay while it is carried, got 4"):
        model.reset_memory_length(4)
    endless = side.model(LM, LM.config(mem_len=None))
    assert endless.init_mems(2) is None
    with pytest.raises(ConfigError, match="carry_memory must have a memory that starts with mem_len zeros, got length"):
        endless.carry_memory(2)


def test_weights_are_restored_while_memory_is_carried():
    """By a callback behind ours, at the end of training."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    model = KERAS.model(LM, LM.config(mem_len=5))
    model.compile("sgd", run_eagerly=True)
    stop = keras.callbacks.EarlyStopping("loss", restore_best_weights=True, patience=0)
    callbacks = [KERAS.towers.CarryMemory(2), stop]
    batch = windows(model.config)[0]
    model.fit(batch, batch_size=2, epochs=2, shuffle=False, verbose=0, callbacks=callbacks)
    assert not model.body().carried.active


def test_a_model_that_keeps_no_memory_is_exported_for_any_length():
    torch = pytest.importorskip("torch")
    from tests.helpers import TORCH

    model = TORCH.model(XLNET["sequence_classification"], LM.config(mem_len=4, use_mems_eval=False))
    auto = torch.export.Dim.AUTO
    ids = torch.randint(9, 31, (3, 3))
    program = torch.export.export(model, (ids,), dynamic_shapes={"input_ids": {0: auto, 1: auto}})
    longer = torch.randint(9, 31, (2, 11))
    found = program.module()(longer)
    assert_close(TORCH.numpy(found["logits"]), TORCH.numpy(model(longer).logits), "equal")


def test_memory_through_fit():
    """`CarryMemory`; endless data are read on from epoch to epoch."""
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    config = LM.config(mem_len=6, reuse_len=3, bi_data=True, dropout=0.0)
    model, batches = KERAS.model(LM, config), windows(config)
    wanted = handed_on(KERAS, model, config, batches)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    for endless, second in ((True, wanted[2:]), (False, None)):
        memory = KERAS.towers.CarryMemory(2, endless=endless)
        settings = {"steps_per_epoch": 2, "epochs": 2, "shuffle": False, "verbose": 0, "callbacks": [memory]}
        losses = model.fit(((batch,) for batch in batches), **settings).history["loss"]
        assert_close(losses[0], np.mean(wanted[:2]), "equal")
        assert (second is not None) == (far(losses[1], np.mean(wanted[2:])) < 1e-5)
    assert not model.body().carried.active
