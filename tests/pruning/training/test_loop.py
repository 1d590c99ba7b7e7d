"""Fine-tuning: against a plain PyTorch loop, its schedule, its seeds, and what it leaves behind."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from pruning.data.images import ImageSet
from pruning.errors import UserError
from pruning.models.cifar import digits
from pruning.training.evaluation import evaluate, mean_loss
from pruning.training.loop import finetune
from pruning.training.recipe import learning_rate
from pruning.training.step import Step
from tests.pruning.training.sample_training import EXACT, losses, network


def test_equals_a_plain_training_loop(data: ImageSet) -> None:
    recipe = replace(EXACT, label_smoothing=0.1, warmup=0.25)
    ours, plain = network(), network()
    for model in (ours, plain):
        model[3].p = 0.0  # type: ignore[index, union-attr, operator]
    got = losses(ours, data, recipe, seed=3)

    optimizer = torch.optim.SGD(
        plain.parameters(), 1.0, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    batches = data.batches(
        32, shuffle=True, generator=torch.Generator().manual_seed(3), drop_last=True
    )
    expected, done, total, rise = [], 0, 12, 3
    for _ in range(2):
        seen = []
        for x, y in batches:
            if done < rise:
                rate = 0.05 * (done + 1) / rise
            else:
                rate = 0.025 * (1 + math.cos(math.pi * (done - rise) / (total - rise)))
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = F.cross_entropy(plain(x), y, label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
            done += 1
        expected.append(sum(seen) / len(seen))
    assert got == pytest.approx(expected, rel=1e-4)
    for a, b in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_seed_repeats_and_the_callers_random_state_stays(data: ImageSet) -> None:
    first = losses(network(), data, EXACT, seed=1)
    assert losses(network(), data, EXACT, seed=2) != first
    model = network()
    torch.manual_seed(77)  # dropout must not draw from here
    before = torch.get_rng_state()
    assert losses(model, data, EXACT, seed=1) == first
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(0, []), (0.01, [1 / 6]), (0.5, [0.5]), (1, [1.0]), (2.5, [1.0, 2.0, 2.5])],
)
def test_fractional_epochs(data: ImageSet, epochs: float, expected: list[float]) -> None:
    model = network()
    results = list(finetune(model, data, replace(EXACT, epochs=epochs)))
    assert [r.epoch for r in results] == pytest.approx(expected)
    assert all(r.seconds > 0 and r.images_per_s > 0 for r in results)
    assert int(model[1].num_batches_tracked) == round(6 * epochs) or epochs == 0.01  # type: ignore[index, union-attr, operator]
    assert not model.training


def test_schedule_rises_then_falls_to_almost_nothing() -> None:
    recipe = replace(EXACT, warmup=0.2, lr=0.4)
    rates = [learning_rate(recipe, i, 50) for i in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert max(rates) == pytest.approx(0.4)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.002
    assert learning_rate(replace(recipe, warmup=1.0), 49, 50) == pytest.approx(0.4)


def test_norms_and_biases_can_be_kept_from_decay(data: ImageSet) -> None:
    strong = replace(EXACT, weight_decay=100.0, lr=1e-6, momentum=0.0, epochs=1)
    for decay_all in (True, False):
        model, start = network(), network()
        losses(model, data, replace(strong, decay_all=decay_all))
        after, before = model.state_dict(), start.state_dict()
        names = ("0.weight", "1.weight", "5.weight")
        scale = {name: (after[name].norm() / before[name].norm()).item() for name in names}
        assert (scale["1.weight"] < 0.9998) == decay_all
        assert scale["0.weight"] < 0.9998 and scale["5.weight"] < 0.9998


def test_a_loss_that_is_not_finite_stops_with_a_remedy(data: ImageSet) -> None:
    model = network()
    with pytest.raises(FloatingPointError, match=r"epoch 1; lower the learning rate \(lr 1e\+30"):
        losses(model, data, replace(EXACT, lr=1e30))
    assert not model.training


def test_distillation_is_hintons_loss_and_leaves_the_teacher_alone(data: ImageSet) -> None:
    student, teacher = network().eval(), network()
    losses(teacher, data, replace(EXACT, epochs=6))
    recipe = replace(EXACT, distill=0.3, temperature=2.0, label_smoothing=0.1, epochs=1)
    x, y = next(iter(data.batches(32)))
    with torch.no_grad():
        p, q = (F.softmax(m(x) / 2.0, 1) for m in (teacher, student))
        expected = 0.7 * F.cross_entropy(student(x), y, label_smoothing=0.1)
        expected += 0.3 * 4.0 * (p * (p / q).log()).sum(1).mean()
    got = Step(student, teacher, recipe, torch.device("cpu")).loss(x, y)
    torch.testing.assert_close(got.detach(), expected)

    teacher.train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    losses(student, data, recipe, teacher=teacher)
    assert teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    with pytest.raises(UserError, match="teacher"):
        finetune(network(), data, recipe)


def test_evaluation_is_exact_and_leaves_the_model_as_it_was(data: ImageSet) -> None:
    model = network().train()
    model[1].eval()  # type: ignore[index]
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    accuracy, loss = evaluate(model, data.batches(64)), mean_loss(model, data.batches(64))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    ((x, y),) = data.batches(200)
    with torch.no_grad():
        logits = model(x)
    assert accuracy == (logits.argmax(1) == y).double().mean().item()
    assert loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    with pytest.raises(UserError, match="no images"):
        evaluate(model, [])


def test_a_caller_may_stop_early_and_score_between_epochs(data: ImageSet) -> None:
    model = network()
    run = finetune(model, data, replace(EXACT, epochs=5))
    next(run)
    evaluate(model, data.batches(200))
    assert next(run).epoch == 2.0
    run.close()  # type: ignore[attr-defined]
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_bad_recipes_are_refused() -> None:
    bad: list[tuple[str, object]] = [
        ("epochs", -1), ("batch", 0), ("lr", 0.0), ("lr", math.nan), ("momentum", 1.0),
        ("warmup", 2.0), ("distill", 1.5), ("precision", "fp8"), ("label_smoothing", 1.0),
    ]  # fmt: skip
    for name, value in bad:
        with pytest.raises(UserError, match=name):
            replace(EXACT, **{name: value})  # type: ignore[arg-type]


def test_an_empty_set_is_refused_at_once(data: ImageSet) -> None:
    with pytest.raises(UserError, match="no images to train on"):
        finetune(network(), data.subset([]), EXACT)


def test_bf16_learns_too(data: ImageSet) -> None:
    model = digits(2)
    losses(model, data, replace(EXACT, epochs=3, precision="bf16"))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert evaluate(model, data.batches(200)) > 0.9
