"""Memory as keys and values: what is read after it equals what is read after hidden states, whatever was read how."""

import copy
from contextlib import nullcontext

import numpy as np
import pytest

from tests.helpers import (
    BODY,
    CLASSIFIER,
    KERAS,
    LM,
    TORCH,
    XLM,
    XLNET,
    Case,
    assert_close,
    each_side,
    far,
    inputs_for,
)
from xlcore import ConfigError, ShapeError

XLNET_LM = XLNET["permutation_lm"]
# What changes something of memory or attention.
CHANGES = {
    "transfo-xl": "default pre_lnorm shared_biases any_length no_clamp no_memory tf1_window empty_start",
    "xlnet": "default one_way same_length backwards reuse",
}
CASES = [
    Case(each.family, each.head, name)
    for each in (LM, XLNET_LM)
    for name in CHANGES[each.family.config.model_type].split()
]
LENGTHS = (3, 1, 1, 7, 2, 1, 4)  # of segments; memory holds 5 positions
each_variant = pytest.mark.parametrize("case", CASES, ids=str)


def segments(case, config, B=2, lengths=LENGTHS):
    """Return one call after the other, each of another kind: losses, scores, one stream and two, types, head masks."""
    names, found = ["input_ids", "token_type_ids", "labels", "perm_mask", "target_mapping"], []
    for number, length in enumerate(lengths):
        some = names if number % 2 else names[:2]
        some = [name for name in some if name != "labels" or length > 1]  # of Transformer-XL, it takes two words
        given = inputs_for(case, config, *some, B=B, T=length, seed=number)
        if number % 3 == 2:
            given |= {"head_mask": np.array([[1, 0, 1], [0.5, 1, 1]], "float32")[: config.num_layers]}
            given |= {"output_attentions": True, "output_hidden_states": True}
        found.append(given)
    return found


def called(side, model, batch, mems):
    """Call a model; return all outputs but the memory as arrays, and the memory as it came."""
    more = {"use_mems": True} if hasattr(model.config, "reuse_len") else {}
    output = side.call(model, {**batch, **more, "mems": mems})
    return {name: arrays(side, value) for name, value in output.items() if name != "mems"}, output.get("mems")


def arrays(side, value):
    return [arrays(side, each) for each in value] if isinstance(value, list | tuple) else side.numpy(value)


def assert_same(got, wanted, kind, what):
    """Compare outputs; where there is room for more keys than there are, nothing is attended to there."""
    assert got.keys() == wanted.keys()
    for name in wanted:
        pairs = [(got[name], wanted[name])]
        while pairs and isinstance(pairs[0][1], list):
            pairs = [pair for each in pairs for pair in zip(*each, strict=True)]
        for mine, theirs in pairs:
            if name == "attentions":
                spare = mine.shape[-1] - theirs.shape[-1]
                assert not mine[..., :spare].any()
                mine = mine[..., spare:]
            assert_close(mine, theirs, kind, f"{what} {name}")


def assert_remembers(side, memory, mems, kind, what=""):
    for mine, theirs in zip(memory.mems(), mems, strict=True):
        assert_close(side.numpy(mine), side.numpy(theirs), kind, f"{what} mems")


@each_variant
@each_side
def test_keys_and_values_equal_hidden_states(side, case):
    config = case.config()
    kinds = {"float64": "float64", "float32": "equal"} if case.variant == "default" else {"float64": "float64"}
    for dtype, kind in kinds.items():
        model = side.model(case, config, dtype=dtype)
        memory, mems = side.towers.KeyValueMemory(), None
        for number, batch in enumerate(segments(case, config)):
            wanted, mems = called(side, model, batch, mems)
            got, returned = called(side, model, batch, memory)
            assert returned is memory
            assert_same(got, wanted, kind, f"segment {number}")
            if mems is not None:  # a model without memory returns none to a call without it
                assert_remembers(side, memory, mems, kind, f"segment {number}")


@pytest.mark.parametrize("case", [BODY, LM, CLASSIFIER, *XLNET.values()], ids=str)
@each_side
def test_every_model_that_takes_mems_takes_it(side, case):
    config, memory, mems = case.config(), side.towers.KeyValueMemory(), None
    model = side.model(case, config, dtype="float64")
    for seed in (1, 2):
        batch = inputs_for(case, config, "input_ids", seed=seed)
        wanted, mems = called(side, model, batch, mems)
        got, _ = called(side, model, batch, memory)
        assert_same(got, wanted, "float64", "")


@pytest.mark.parametrize("case", [LM, XLNET_LM, Case(XLNET_LM.family, XLNET_LM.head, "same_length")], ids=str)
@each_side
def test_it_starts_from_the_known_layout_and_gives_it(side, case):
    config = case.config()
    model = side.model(case, config, dtype="float64")
    first, second, third = segments(case, config, lengths=(4, 3, 5))
    drawn = inputs_for(case, config, "mems", M=8)["mems"]  # longer than what is kept
    mems = side.native(drawn, side.dtype("float64"))
    memory = side.towers.KeyValueMemory(mems)
    assert_remembers(side, memory, mems, "float64")
    for batch in (first, second):
        wanted, mems = called(side, model, batch, mems)
        assert_same(called(side, model, batch, memory)[0], wanted, "float64", "from mems")
    again = side.towers.KeyValueMemory(memory.mems())
    wanted, mems = called(side, model, third, mems)
    for each in (memory, again):
        assert_same(called(side, model, third, each)[0], wanted, "float64", "from its own")
        assert_remembers(side, each, mems, "float64")
    assert side.towers.KeyValueMemory().mems() is None


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
@each_side
def test_rows_are_chosen(side, case):
    """Beams: rows go on as others, more or fewer than before, before anything is read and behind it."""
    config = case.config()
    model = side.model(case, config, dtype="float64")
    first, second, third = (
        {"input_ids": inputs_for(case, config, "input_ids", B=B, T=T, seed=T)["input_ids"]}
        for B, T in ((2, 7), (3, 2), (1, 4))
    )
    memory, mems = side.towers.KeyValueMemory(), None
    for batch, rows in ((first, [1, 0, 1]), (second, [2]), (third, [0])):
        wanted, mems = called(side, model, batch, mems)
        assert_same(called(side, model, batch, memory)[0], wanted, "float64", f"{rows}")
        memory.choose(side.native(np.array(rows)))
        mems = [side.native(side.numpy(each)[:, rows]) for each in mems]
        assert_remembers(side, memory, mems, "float64")
    unread = side.towers.KeyValueMemory(mems)
    unread.choose(side.native(np.array([0, 0])))
    assert_close(side.numpy(unread.mems()[0]), side.numpy(mems[0])[:, [0, 0]], "float64")


WRONG_ROWS = ([0, 2], [], [True, False], None, 1, [0.0, 1.0], [-1, 0], [[0, 1]], ["0"])


@each_side
def test_rows_that_are_not_there_are_refused(side):
    """Before anything has changed: from the start, of what was given, and of what was read."""
    config = LM.config()
    model, batch = side.model(LM, config), inputs_for(LM, config, "input_ids")
    memory, given = side.towers.KeyValueMemory(), side.native(inputs_for(LM, config, "mems")["mems"])
    called(side, model, batch, memory)
    before = [side.native(side.numpy(each)) for each in memory.mems()]
    for each, held in ((memory, before), (side.towers.KeyValueMemory(given), given)):
        for rows in WRONG_ROWS:
            with pytest.raises(
                ShapeError, match=r"KeyValueMemory: rows must be one or more whole numbers in \[0, 2\), "
            ) as e:
                each.choose(rows)
            assert str(e.value).endswith(f"got {rows}")
            if isinstance(rows, list) and rows and not isinstance(rows[0], str):
                with pytest.raises(ShapeError, match="KeyValueMemory: rows must be"):
                    each.choose(side.native(np.array(rows)))
            assert_remembers(side, each, held, "equal", str(rows))
    with pytest.raises(
        ShapeError, match=r"KeyValueMemory: rows must be one or more whole numbers from 0 on, got \[-1\]"
    ):
        side.towers.KeyValueMemory().choose([-1])
    wanted, _ = called(side, model, batch, before)
    assert_same(called(side, model, batch, memory)[0], wanted, "equal", "after refusals")


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
@each_side
def test_a_copy_goes_on_by_itself(side, case):
    """From a prefix several ways, of the same model; from the start and of what was given, too."""
    config = case.config()
    model = side.model(case, config, dtype="float64")
    first, *ways = segments(case, config, lengths=(3, 4, 2))
    memory = side.towers.KeyValueMemory()
    _, mems = called(side, model, first, memory), called(side, model, first, None)[1]
    for copied in (copy.copy, copy.deepcopy):
        for batch in ways:
            branch = copied(memory)
            wanted, after = called(side, model, batch, mems)
            assert_same(called(side, model, batch, branch)[0], wanted, "float64", copied.__name__)
            assert_remembers(side, branch, after, "float64")
            assert_remembers(side, memory, mems, "float64")
            assert branch.body is memory.body
            branch.choose(side.native(np.array([1, 1])))
    started = copy.deepcopy(side.towers.KeyValueMemory(mems))
    assert_remembers(side, started, mems, "float64")
    assert copy.copy(side.towers.KeyValueMemory()).mems() is None


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
@each_side
def test_distances_follow_the_config(side, case):
    """`clamp_len` is changed between two calls: what is read then is read as it says now, compiled or not."""
    config = case.config(mem_len=12, clamp_len=-1)
    model = side.model(case, config, dtype="float64")
    first, second = (
        {"input_ids": inputs_for(case, config, "input_ids", T=7, seed=seed)["input_ids"]} for seed in (1, 2)
    )
    memory, mems = side.towers.KeyValueMemory(), called(side, model, first, None)[1]
    called(side, model, first, memory)
    as_before, compiled = copy.copy(memory), copy.copy(memory)
    name = "logits" if case is XLNET_LM else "prediction_scores"
    old = called(side, model, second, mems)[0]
    for clamp_len in (2, -1, 3):
        model.config.clamp_len = clamp_len
        wanted, _ = called(side, model, second, mems)
        assert_same(called(side, model, second, copy.copy(memory))[0], wanted, "float64", f"{clamp_len}")
        assert (far(wanted[name], old[name]) > 1e-3) == (clamp_len > 0)
        if side is KERAS:
            if clamp_len == 2:
                step = side.towers.compiled_reader(model, lambda memory, ids: model(ids, mems=memory)[name])
            found = step(copy.copy(compiled), side.native(second["input_ids"]))
            assert_close(side.numpy(found), wanted[name], "float64", f"compiled {clamp_len}")
    assert_same(called(side, model, second, as_before)[0], wanted, "float64", "a copy from before")


@each_side
def test_it_matters_what_is_remembered(side):
    """Other words before give other scores; a call that remembers nothing moves nothing on."""
    config = XLNET_LM.config()
    model = side.model(XLNET_LM, config)
    memory, other = side.towers.KeyValueMemory(), side.towers.KeyValueMemory()
    called(side, model, inputs_for(XLNET_LM, config, "input_ids", seed=1), memory)
    called(side, model, inputs_for(XLNET_LM, config, "input_ids", seed=2), other)
    batch = inputs_for(XLNET_LM, config, "input_ids", seed=3)
    before = [side.numpy(each) for each in memory.mems()]
    for carries in (False, True):
        if carries:
            model.carry_memory(2)
        ahead = side.call(model, {**batch, "mems": memory, "use_mems": False})
        assert ahead.get("mems") is None
        assert_remembers(side, memory, [side.native(each) for each in before], "equal", f"{carries}")
    model.drop_memory()
    assert_close(side.numpy(ahead.logits), called(side, model, batch, memory)[0]["logits"], "equal")
    assert far(side.numpy(ahead.logits), called(side, model, batch, other)[0]["logits"]) > 1e-2


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
@each_side
def test_what_it_does_not_serve_is_refused(side, case):
    config = case.config()
    model, batch = side.model(case, config), inputs_for(case, config, "input_ids")
    memory, where = side.towers.KeyValueMemory(), case.head.name.replace("LMHead", "")
    with pytest.raises(ConfigError, match=rf"{where}: mems must be a list of arrays in training, got a KeyValueMemory"):
        side.call(model, {**batch, "mems": memory}, training=True)
    called(side, model, batch, memory)
    before = [side.numpy(each) for each in memory.mems()]
    with pytest.raises(ShapeError, match=rf"{where}: a batch must have the 2 rows that mems hold, got 3"):
        called(side, model, inputs_for(case, config, "input_ids", B=3), memory)
    with pytest.raises(ConfigError, match=rf"{where}: mems must be what this model has read, got a KeyValueMemory of"):
        called(side, side.model(case, config), batch, memory)
    embedded = {"inputs_embeds": np.zeros((2, 3, 12), "float64")}
    if side is TORCH:
        with pytest.raises(ShapeError, match=rf"{where}: hidden states must be torch.float32 as mems hold them, got"):
            model.double()(**{name: side.native(value) for name, value in embedded.items()}, mems=memory)
        model.float()
    assert_remembers(side, memory, [side.native(each) for each in before], "equal")
    wrong = side.towers.KeyValueMemory(side.native(inputs_for(case, config, "mems", B=3)["mems"]))
    with pytest.raises(ShapeError, match=rf"{where}: mems\[0\] must have shape \[M, B=2, D=12\], got \[3, 3, 12\]"):
        called(side, model, batch, wrong)


@pytest.mark.parametrize("given", [False, True])
@each_side
def test_what_a_text_starts_from_is_projected_once(side, given, monkeypatch):
    """It is the same row everywhere; what is given is not."""
    config, seen = LM.config(mem_len=5, initial_memory="zeros"), []
    model = side.model(LM, config)
    attention = type(model.body().blocks[0].attention)
    keys = attention.keys
    monkeypatch.setattr(attention, "keys", lambda self, rows: (seen.append(rows.shape[1]), keys(self, rows))[1])
    memory = side.towers.KeyValueMemory(model.init_mems(2) if given else None)
    for length in (3, 2):
        called(side, model, inputs_for(LM, config, "input_ids", B=2, T=length), memory)
    assert seen == [5 + 3 if given else 1 + 3] * config.num_layers + [2] * config.num_layers


# ------------------------------------------------------------------------------------------------ in PyTorch: the cost


def test_nothing_is_projected_twice_and_little_is_moved():
    """A call projects what it reads; distances are projected for twice as many as before, never each time."""
    config = LM.config(mem_len=40, initial_memory="empty")
    model, memory = TORCH.model(LM, config), TORCH.towers.KeyValueMemory()
    rows = {"key": [], "position": []}
    attention = model.transformer.blocks[1].attention
    for name, found in rows.items():
        getattr(attention, name).register_forward_hook(
            lambda _, given, __, found=found: found.append(given[0].shape[-2])
        )
    places, lengths = set(), (10, *[1] * 90)
    for length in lengths:
        called(TORCH, model, inputs_for(LM, config, "input_ids", T=length), memory)
        places |= {store.data_ptr() for layer in memory.layers for store in layer.shelf}
    assert rows["key"] == list(lengths)
    assert len(rows["position"]) <= 4
    assert max(rows["position"]) <= 40 + 10 + 1
    assert memory.length == 40
    assert len(places) <= 3 * 2 * 4
    assert max(store.shape[2] for layer in memory.layers for store in layer.shelf) <= 2 * 41


def test_no_gradient_goes_through():
    config = LM.config()
    model, memory = TORCH.model(LM, config), TORCH.towers.KeyValueMemory()
    output = TORCH.call(model, {**inputs_for(LM, config, "input_ids", "labels"), "mems": memory})
    output.loss.backward()
    parameters = model.canonical_parameters()
    assert parameters["blocks.0.attention.key.weight"].grad is None
    assert all(not each.requires_grad for layer in memory.layers for each in layer.shelf)


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
def test_modes_without_gradient_take_turns(case):
    """What is read in inference mode is read on outside of it, and the other way round; moved and copied there, too."""
    import torch

    config = case.config()
    model, memory, mems = TORCH.model(case, config, dtype="float64"), TORCH.towers.KeyValueMemory(), None
    modes = (torch.inference_mode, torch.no_grad, torch.inference_mode, nullcontext)
    for mode, batch in zip(modes * 2, segments(case, config, lengths=(2, 1, 7, 1, 1, 3, 1, 1)), strict=True):
        with torch.no_grad():
            wanted, mems = called(TORCH, model, batch, mems)
        with mode():
            assert_same(called(TORCH, model, batch, memory)[0], wanted, "float64", mode.__name__)
            memory = copy.copy(memory)
            memory.choose([1, 0])
            mems = [each.index_select(1, torch.tensor([1, 0])).clone() for each in mems]


# --------------------------------------------------------------------------------------------------- in Keras: compiled


@pytest.mark.parametrize("case", [LM, Case(LM.family, LM.head, "empty_start"), XLNET_LM], ids=str)
def test_compiled_steps_equal_eager_ones(case):
    config, traces, name = case.config(), [], "logits" if case is XLNET_LM else "prediction_scores"
    model = KERAS.model(case, config, dtype="float64")
    compiled_reader = KERAS.towers.compiled_reader

    def scores(memory, ids):
        traces.append(ids.shape)
        return model(ids, mems=memory)[name]

    step, memory, eager = compiled_reader(model, scores), KERAS.towers.KeyValueMemory(), KERAS.towers.KeyValueMemory()
    for seed, length in enumerate((4, 1, 1, 1, 6, 1)):
        batch = inputs_for(case, config, "input_ids", T=length, seed=seed)
        wanted, _ = called(KERAS, model, batch, eager)
        found = step(memory, KERAS.native(batch["input_ids"]))
        assert_close(KERAS.numpy(found), wanted[name], "float64", f"step {seed}")
        assert_remembers(KERAS, memory, eager.mems(), "float64")
    memory.choose(KERAS.native(np.array([1, 0])))
    eager.choose(KERAS.native(np.array([1, 0])))
    batch = inputs_for(case, config, "input_ids", T=1, seed=9)
    found = step(memory, KERAS.native(batch["input_ids"]))
    assert_close(KERAS.numpy(found), called(KERAS, model, batch, eager)[0][name], "float64")
    assert len(traces) == 3, traces  # the first call, one word, six words


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
def test_compiled_steps_write_in_place(case):
    """They read on and on, one word or many, once or twice a step: what is kept moves seldom, and nothing gets lost."""
    from keras import ops

    config, name = case.config(mem_len=3), "logits" if case is XLNET_LM else "prediction_scores"
    model, traces, places = KERAS.model(case, config, dtype="float64"), [], []
    lengths = (3, *[1] * 21, *[20] * 4, 1, 33, 33, 2)  # room for 35 more, of which 16 must be left, then for 67

    def twice(memory, ids):
        traces.append(ids.shape)
        half = ids.shape[1] // 2
        first = [] if half == 0 else [model(ids[:, :half], mems=memory)[name]]
        return ops.concatenate([*first, model(ids[:, half:], mems=memory)[name]], axis=1)

    step, memory, eager = KERAS.towers.compiled_reader(model, twice), *(KERAS.towers.KeyValueMemory() for _ in range(2))
    for seed, length in enumerate(lengths):
        batch = inputs_for(case, config, "input_ids", T=length, seed=seed)
        ids, half = KERAS.native(batch["input_ids"]), length // 2
        parts = [{"input_ids": part} for part in (ids[:, :half], ids[:, half:]) if part.shape[1]]
        wanted = np.concatenate([called(KERAS, model, part, eager)[0][name] for part in parts], axis=1)
        assert_close(KERAS.numpy(step(memory, ids)), wanted, "float64", f"step {seed}")
        kept = memory.layers[1].shelf[2]  # held, so that no other has its number
        places += [kept] if all(kept is not each for each in places) else []
    assert_remembers(KERAS, memory, eager.mems(), "float64")
    assert len(places) <= 4, len(places)
    assert len(traces) <= 8, traces


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
@pytest.mark.parametrize("way", ["nested", "run_eagerly"])
def test_compiled_steps_in_other_code(case, way):
    """A step within a step, and steps that TensorFlow is told not to compile, keep their memory, too."""
    import tensorflow as tf
    from keras import ops

    config = case.config(mem_len=9)
    model, reader = KERAS.model(case, config, dtype="float64"), KERAS.towers.compiled_reader
    inner = reader(model, lambda memory, ids: model(ids, mems=memory)[0])

    def read(memory, ids):
        return ops.concatenate([inner(memory, ids[:, :1]), inner(memory, ids[:, 1:])], axis=1)

    step = reader(model, read) if way == "nested" else read
    after, before = KERAS.towers.KeyValueMemory(), KERAS.towers.KeyValueMemory()
    try:
        tf.config.run_functions_eagerly(way == "run_eagerly")
        for number, length in enumerate((3, 2, 2, 30, 2, 30, 30)):
            assert after.needed <= 32
            ids = KERAS.native(inputs_for(case, config, "input_ids", T=length, seed=number)["input_ids"])
            wanted = [model(part, mems=before)[0] for part in (ids[:, :1], ids[:, 1:])]
            assert_close(KERAS.numpy(step(after, ids)), np.concatenate(wanted, axis=1), "float64", f"step {number}")
            assert_remembers(KERAS, after, before.mems(), "float64")
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
def test_a_compiled_step_that_fails_changes_nothing(case):
    """Rows that it chose before it failed are where they were; and a copy of a memory whose call failed reads on."""
    import tensorflow as tf

    config = case.config(mem_len=9)
    model, memory = KERAS.model(case, config, dtype="float64"), KERAS.towers.KeyValueMemory()

    def read(memory, ids, fail):
        memory.choose([1, 0])
        with tf.control_dependencies([tf.debugging.assert_equal(fail, 0)]):
            return model(tf.identity(ids), mems=memory)[0]

    step = KERAS.towers.compiled_reader(model, read)
    ids = KERAS.native(inputs_for(case, config, "input_ids", T=3)["input_ids"])
    for _ in range(2):
        model(ids, mems=memory)
    before = [KERAS.numpy(each) for each in memory.mems()]
    with pytest.raises(tf.errors.InvalidArgumentError):
        step(memory, ids, tf.constant(1))
    for mine, theirs in zip(memory.mems(), before, strict=True):
        assert_close(KERAS.numpy(mine), theirs, "equal")
    longer = KERAS.native(inputs_for(case, config, "input_ids", T=40)["input_ids"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.transformer.blocks[0]), "call", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(longer, mems=memory)
    wanted = KERAS.numpy(model(ids, mems=copy.copy(memory))[0])
    memory = KERAS.towers.KeyValueMemory([KERAS.native(each) for each in before])
    assert_close(KERAS.numpy(model(ids, mems=memory)[0]), wanted, "float64")


def test_the_start_of_a_text_makes_no_room_for_more_of_its_length():
    config = LM.config(mem_len=9)
    model, memory = KERAS.model(LM, config), KERAS.towers.KeyValueMemory()
    for length in (200, 1, 1):
        model(KERAS.native(inputs_for(LM, config, "input_ids", T=length)["input_ids"]), mems=memory)
    assert memory.layers[0].shelf[0].shape[2] <= 2 * (9 + 16)


def test_a_memory_within_a_strategy():
    """Its variables would be spread over devices, so that it keeps arrays."""
    import tensorflow as tf

    config, memory = LM.config(), KERAS.towers.KeyValueMemory()
    batches = [inputs_for(LM, config, "input_ids", T=3, seed=seed) for seed in range(3)]
    model = KERAS.model(LM, config, dtype="float64")
    wanted = [called(KERAS, model, batch, memory)[0] for batch in batches]
    with tf.distribute.MirroredStrategy(["/cpu:0"]).scope():
        other = KERAS.model(LM, config, dtype="float64", weights=KERAS.weights(model))
        memory = KERAS.towers.KeyValueMemory()
        for batch, each in zip(batches, wanted, strict=True):
            assert_same(called(KERAS, other, batch, memory)[0], each, "float64", "strategy")


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
def test_a_longer_memory_is_kept_from_now_on(case):
    """Places that are too small for it, and compiled code, make room."""
    config = case.config(mem_len=4)
    model, before, after = KERAS.model(case, config, dtype="float64"), *(KERAS.towers.KeyValueMemory() for _ in "ab")
    step = KERAS.towers.compiled_reader(model, lambda memory, ids: model(ids, mems=memory)[0])
    for number, mem_len in enumerate((4, 4, 50, 50, 2, 50)):
        model.reset_memory_length(mem_len)
        batch = inputs_for(case, config, "input_ids", T=5, seed=number)
        wanted, _ = called(KERAS, model, batch, before)
        found = step(after, KERAS.native(batch["input_ids"]))
        assert_close(KERAS.numpy(found), next(iter(wanted.values())), "float64", f"step {number}")
        assert_remembers(KERAS, after, before.mems(), "float64")


@pytest.mark.parametrize("case", [LM, XLNET_LM], ids=str)
def test_compiled_code_takes_no_memory_from_outside(case):
    """It would run with what it found when it was compiled; one that it makes itself serves, a copy among them."""
    config, name = case.config(), "logits" if case is XLNET_LM else "prediction_scores"
    model, tf = KERAS.model(case, config, dtype="float64"), pytest.importorskip("tensorflow")
    memory, where = KERAS.towers.KeyValueMemory(), f"TF{case.head.name}".replace("LMHead", "")
    first, second = (KERAS.native(inputs_for(case, config, "input_ids", seed=seed)["input_ids"]) for seed in (1, 2))
    read = tf.function(lambda ids, memory=memory: model(ids, mems=memory)[name], autograph=False)
    refused = (
        r"mems must be made in the code that is compiled, got a KeyValueMemory from outside of it; compiled_reader"
    )
    for _ in range(2):  # before anything is read, and behind it
        with pytest.raises(ConfigError, match=f"^{where}: {refused}"):
            read(first)
        with pytest.raises(ConfigError, match=f"^KeyValueMemory: {refused}"):
            tf.function(lambda rows: memory.choose(rows), autograph=False)(tf.constant([0, 1]))
        model(first, mems=memory)

    @tf.function(autograph=False)
    def inside(first, second, rows):
        mine = KERAS.towers.KeyValueMemory()
        model(first, mems=mine)
        mine.choose(rows)
        return model(second, mems=mine)[name], model(second, mems=copy.copy(mine))[name]

    rows = np.array([1, 0])
    _, mems = called(KERAS, model, {"input_ids": first}, None)
    mems = [KERAS.native(KERAS.numpy(each)[:, rows]) for each in mems]
    wanted, after = called(KERAS, model, {"input_ids": second}, mems)
    again, _ = called(KERAS, model, {"input_ids": second}, after)
    for _ in range(2):
        found = inside(first, second, tf.constant(rows))
        assert_close(KERAS.numpy(found[0]), wanted[name], "float64")
        assert_close(KERAS.numpy(found[1]), again[name], "float64")
    with pytest.raises(
        ShapeError, match=r"KeyValueMemory: rows must be one or more whole numbers in \[0, 2\), got 'bool \(2,"
    ):
        inside(first, second, tf.constant([True, False]))


def test_a_compiled_reader_takes_what_its_model_has_read():
    config = LM.config()
    model, other = KERAS.model(LM, config), KERAS.model(LM, config)
    ids = KERAS.native(inputs_for(LM, config, "input_ids")["input_ids"])
    step = KERAS.towers.compiled_reader(model, lambda memory, ids: model(ids, mems=memory)[0])
    memory = KERAS.towers.KeyValueMemory()
    other(ids, mems=memory)
    with pytest.raises(ConfigError, match="TFTransfoXLModel: mems must be what this model has read, got a KeyValueMem"):
        step(memory, ids)


# ------------------------------------------------------------------------------------- what else texts are read on from


@each_side
def test_rows_of_a_cache_are_chosen(side):
    case = next(Case(each.family, each.head, "one_way") for each in XLM.values() if each.head.kind == "word_lm")
    config = case.config()
    model = side.model(case, config, dtype="float64")
    ids = inputs_for(case, config, "input_ids", T=7)["input_ids"]
    cache = side.towers.KeyValueCache()
    cache.choose(side.native(np.array([0])))  # nothing is read: nothing to choose
    side.call(model, {"input_ids": ids[:, :5], "cache": cache})
    cache.choose(side.native(np.array([1, 0, 1])))
    swapped = ids[[1, 0, 1]]
    got = side.call(model, {"input_ids": swapped, "cache": cache}).logits
    wanted = side.call(model, {"input_ids": swapped}).logits
    assert_close(side.numpy(got), side.numpy(wanted)[:, 5:], "float64")


@each_side
def test_rows_that_a_cache_does_not_have(side):
    """Are refused before anything has changed."""
    case = next(Case(each.family, each.head, "one_way") for each in XLM.values() if each.head.kind == "word_lm")
    model, cache = side.model(case, dtype="float64"), side.towers.KeyValueCache()
    with pytest.raises(
        ShapeError, match=r"^KeyValueCache: rows must be one or more whole numbers from 0 on, got \[-1\]$"
    ):
        cache.choose(side.native(np.array([-1])))
    ids = inputs_for(case, case.config(), "input_ids", T=7)["input_ids"]
    side.call(model, {"input_ids": ids[:, :5], "cache": cache})
    for rows in ([2], [-1], [0.0], [True, False], [[0]], [], 1):
        with pytest.raises(
            ShapeError, match=r"^KeyValueCache: rows must be one or more whole numbers in \[0, 2\), got"
        ):
            cache.choose(side.native(np.array(rows)))
    got = side.call(model, {"input_ids": ids, "cache": cache}).logits
    assert_close(side.numpy(got), side.numpy(side.call(model, {"input_ids": ids}).logits)[:, 5:], "float64")


@each_side
def test_rows_of_a_reader_are_chosen(side):
    config = XLNET_LM.config()
    model = side.model(XLNET_LM, config, dtype="float64")
    reading = __import__(f"{side.towers.__name__}.layers.reading", fromlist=["TextReader"])
    texts = inputs_for(XLNET_LM, config, "input_ids", T=6)["input_ids"]
    swapped, found = texts[[1, 0, 1]], []
    for choose in (True, False):
        reader = reading.TextReader(model, 3, True)
        for end in (4, 5, 6):
            rows = texts if choose and end == 4 else swapped
            found.append(side.numpy(reader.scores(side.native(rows[:, :end]))))
            if choose and end == 4:
                reader.choose(side.native(np.array([1, 0, 1])))
    assert_close(found[1], found[4], "float64")
    assert_close(found[2], found[5], "float64")
    assert far(found[2][0], found[2][1]) > 1e-2
