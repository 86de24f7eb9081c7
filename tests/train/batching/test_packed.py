"""Flat batches with a shared prefix give what each row gives alone, with layers replaced too."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.models.chat_template import TokenizedRow
from burnish.train.adapters.registry import METHODS, trainable_weights
from burnish.train.batching.micro_batches import (
    count_computed_tokens,
    micro_batches,
    trim_to_target,
)
from burnish.train.batching.packed import count_shared_prefix, pack, round_up_length
from burnish.train.kernels.fused_layers import GatedSilu, LoraProduct, RmsNorm, fuse
from burnish.train.kernels.packed_attention import (
    _ATTEND,
    ATTENTION,
    AttentionScores,
    GroupedAttention,
    _attend_fused,
)
from burnish.train.loop.language_model import train_step
from burnish.train.losses.linear import LinearCrossEntropy
from burnish.train.objectives.sft import sft_loss
from tests.fixtures.training import logged, make_rows, on_passages


def stir(model):
    """LoRA begins as no change at all; give it one, so that gradients are not zero."""
    torch.manual_seed(1)
    for weight in trainable_weights(model).values():
        weight.data.add_(torch.randn_like(weight) * 0.05)


def plain_loss(model, row):
    """Cross-entropy of one row by `transformers` itself, summed, weights applied."""
    logits = model(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(
        logits, torch.tensor(row.ids[1:]).clamp(min=0), reduction="none"
    )
    return (losses * torch.tensor(row.weights[1:])).sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("system", ["", "Sort the request into one of the known kinds."])
@pytest.mark.parametrize("tokens", [64, 4096])
def test_loss_and_gradients_are_those_of_each_row_alone(method, system, tokens, plan_of):
    rows = make_rows(7, system=system)
    plan = plan_of(rows, f"train.method={method}", f"train.micro_batch_tokens={tokens}")
    stir(plan.model)
    weight = sum(sum(row.weights) for row in plan.rows)

    loss = train_step(plan, plan.rows)["loss"]

    found = {name: plan.optimizer.masters[name].grad.clone() for name in plan.optimizer.weights}
    plain = plan_of(rows, f"train.method={method}")
    plain.language.set_attn_implementation("sdpa")
    for layer in plain.model.modules():
        if not isinstance(layer, torch.nn.Embedding):
            layer.__dict__.pop("forward", None)
    stir(plain.model)
    expected = sum(plain_loss(plain.language, row) for row in plain.rows) / weight
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in trainable_weights(plain.model).items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_the_attention_of_other_devices_gives_the_same(plan_of, monkeypatch):
    rows = make_rows(6, system="Sort the request.")
    losses = []
    for attend in (_ATTEND["cpu"], _attend_fused):
        monkeypatch.setitem(_ATTEND, "cpu", attend)
        plan = plan_of(rows)
        stir(plan.model)
        losses.append(float(sft_loss(plan.language, pack(plan.rows)).detach()))

    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(("longest", "before"), [(7, 0), (64, 30), (97, 5), (200, 0)])
@pytest.mark.parametrize("scores", [1, 5000, 1 << 21])
def test_attention_in_tiles_is_that_of_the_whole(longest, before, scores, monkeypatch):
    monkeypatch.setattr("burnish.train.kernels.packed_attention._SCORES", scores)
    query = exactly((3, 2, 2, longest, 4), seed=1)
    key, value = (exactly((3, 2, before + longest, 4), seed=seed) for seed in (2, 3))
    outward = torch.randn_like(query)
    whole = torch.full((longest, before + longest), -torch.inf).triu(before + 1)

    found = GroupedAttention.apply(query, key, value, AttentionScores(0.3))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.flatten(1, 2), key, value, attn_mask=whole.double(), scale=0.3, enable_gqa=True
    ).view_as(query)

    torch.testing.assert_close(found, expected)
    mine, theirs = (
        torch.autograd.grad(out, (query, key, value), outward) for out in (found, expected)
    )
    torch.testing.assert_close(mine, theirs)


def test_a_shared_prefix_is_computed_once():
    rows = [
        TokenizedRow((1, 2, 3, 4, 5), (0, 0, 0, 1, 1)),
        TokenizedRow((1, 2, 3, 4, 6), (0, 0, 0, 1, 1)),
        TokenizedRow((1, 2, 3), (0, 0, 1)),
    ]

    assert count_shared_prefix(rows) == 2
    assert count_shared_prefix(rows[:2]) == 4, "although the fourth is learnt"
    assert count_shared_prefix(rows[:1]) == 0
    assert count_computed_tokens(rows) == 2 + 3 + 1 + 1, "the second has four tokens of the first"


def test_micro_batches_hold_every_row_once_and_no_more_than_their_budget():
    rows = [TokenizedRow((9, *range(n)), (0, *[1] * n)) for n in (5, 30, 8, 2, 17, 40, 8)]

    batches = micro_batches(rows, 32)

    assert sorted(row.ids for some in batches for row in some) == sorted(row.ids for row in rows)
    assert all(count_computed_tokens(some) <= 32 or len(some) == 1 for some in batches)
    assert any(len(some) > 1 for some in batches)


def talks():
    """Rows of few tokens, of which many begin alike; some learn what others only read."""
    token = st.tuples(st.integers(1, 3), st.sampled_from([0.0, 0.0, 0.0, 1.0]))
    row = st.lists(token, min_size=1, max_size=9).map(lambda some: [*some, (4, 1.0)])
    return st.lists(
        row.map(lambda row: TokenizedRow(*map(tuple, zip(*row, strict=True)))), min_size=1
    )


@given(talks())
def test_each_row_is_found_again_in_its_batch(rows):
    for some in micro_batches(rows, 24):
        batch = pack(some)
        first = list(range(batch.layout.prefix))
        learnt = []
        for number, (row, places) in enumerate(zip(some, batch.layout.gather, strict=True)):
            path = [*first, *places.tolist()][: len(row.ids)]
            assert tuple(batch.ids[0, path].tolist()) == row.ids
            assert batch.positions[0, path].tolist() == list(range(len(row.ids)))
            learnt += [
                (path[place - 1], row.ids[place], number)
                for place in range(1, len(row.ids))
                if row.weights[place]
            ]
        told = zip(
            batch.predict_positions, batch.targets, batch.answer_index, batch.weights, strict=True
        )
        assert sorted(learnt) == sorted(tuple(map(int, one[:3])) for one in told if one[3] > 0)
        assert round_up_length(count_computed_tokens(some)) == batch.tokens


def test_questions_on_one_passage_share_it(plan_of):
    plan = plan_of(on_passages(3, questions=3))
    stir(plan.model)
    alone = sum(float(sft_loss(plan.language, pack([row])).detach()) for row in plan.rows)

    batches = micro_batches(plan.rows, 150)

    computed = sum(map(count_computed_tokens, batches))
    assert computed < 0.6 * sum(len(row.ids) for row in plan.rows)
    losses = [float(sft_loss(plan.language, pack(some)).detach()) for some in batches]
    assert sum(losses) == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("attend", [_ATTEND["cpu"], _attend_fused])
def test_gradients_through_what_rows_share_are_those_of_each_row_alone(
    attend, plan_of, monkeypatch
):
    monkeypatch.setitem(_ATTEND, "cpu", attend)
    rows = [*on_passages(4, longest=90), *logged(3), *logged(2, again=True)]
    plan = plan_of(rows, "train.group_by_prefix=true")
    stir(plan.model)
    found = []
    batches = micro_batches(plan.rows, 4096)
    assert len({part.context_positions.shape[1] for part in pack(batches[0]).layout.parts}) > 2
    for some in (batches, [[row] for row in plan.rows]):
        plan.optimizer.reset()
        plan.model.zero_grad()
        for batch in some:
            sft_loss(plan.language, pack(batch)).backward()
        found.append([weight.grad.clone() for weight in trainable_weights(plan.model).values()])

    assert sum(map(count_computed_tokens, batches)) < 0.6 * sum(len(row.ids) for row in plan.rows)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=5e-5)


def test_a_long_row_does_not_pad_hundreds_of_short_ones():
    rows = [TokenizedRow((n, *range(9 + n % 3)), (0, *[1] * (9 + n % 3))) for n in range(10, 210)]
    rows.append(TokenizedRow((5, *range(1500)), (0, *[1] * 1500)))

    batches = micro_batches(rows, 4096)

    assert len(batches) == 2
    for some in batches:
        assert len(some) * max(len(row.ids) for row in some) <= 8 * 4096


def test_what_follows_the_last_learnt_token_is_left_out():
    assert trim_to_target(TokenizedRow((1, 2, 3, 4), (0, 1, 0, 0))) == TokenizedRow((1, 2), (0, 1))


def test_shapes_are_few_and_never_too_small():
    lengths = {round_up_length(count) for count in range(1, 4097)}

    assert all(
        count <= round_up_length(count) <= max(count * 1.07, count + 15) for count in range(1, 4097)
    )
    assert len(lengths) < 100


def exactly(shape, *, seed=0):
    torch.manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_the_layers_own_gradients_are_right():
    x, a, b = exactly((5, 6)), exactly((2, 6)), exactly((4, 2))
    weight = exactly((4, 6)).detach()
    gradcheck = torch.autograd.gradcheck

    assert gradcheck(lambda *t: LoraProduct.apply(t[0], (weight, None), t[1], t[2], 0.5), (x, a, b))
    assert gradcheck(GatedSilu.apply, (exactly((3, 4)), exactly((3, 4), seed=1)))
    # float32 inside, as `transformers` has it, so the check is against its formula
    x, scale = (torch.randn(3, 8, requires_grad=True), torch.randn(8, requires_grad=True))
    inward = torch.randn(3, 8)
    own = torch.autograd.grad(RmsNorm.apply(x, scale, 1e-5), (x, scale), inward)
    plain = scale * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
    for found, expected in zip(own, torch.autograd.grad(plain, (x, scale), inward), strict=True):
        torch.testing.assert_close(found, expected)


def test_cross_entropy_in_chunks_is_cross_entropy():
    torch.manual_seed(0)
    hidden = torch.randn(300, 16, requires_grad=True)
    weight = (10 * torch.randn(50, 16)).requires_grad_()
    targets, weights = torch.randint(0, 50, (300,)), torch.rand(300).round(decimals=1)

    loss = LinearCrossEntropy.apply(hidden, weight, targets, weights)
    found = torch.autograd.grad(loss, (hidden, weight))

    losses = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    expected = (losses * weights).sum()
    torch.testing.assert_close(loss, expected)
    for own, plain in zip(found, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-4)


def test_every_layer_of_the_tiny_model_that_can_be_is_replaced(plan_of):
    plan = plan_of(make_rows(4))

    assert len(fuse(plan.model)) == 2 * 7 + 5 + 2
    assert len(fuse(plan_of(make_rows(4), "train.method.dropout=0.1").model)) == 5 + 2


def test_a_model_of_another_family_keeps_its_own_layers():
    class OtherRMSNorm(torch.nn.Module):
        pass

    assert len(fuse(torch.nn.Sequential(OtherRMSNorm(), torch.nn.Linear(2, 2)))) == 0
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                    num_attention_heads=2, hidden_act="gelu")
    )  # fmt: skip
    llama.set_attn_implementation(ATTENTION)
    assert len(fuse(llama)) == 3, "the norms, but not a gate with another activation"
