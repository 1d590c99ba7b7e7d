"""Fine-tuning: against a plain PyTorch loop, its schedule, its seeds, and what it leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.data.images import ImageSet
from pruning.errors import UserError
from pruning.models.cifar import digits
from pruning.training import step as step_module
from pruning.training.evaluation import evaluate, mean_loss
from pruning.training.loop import finetune
from pruning.training.recipe import Recipe, learning_rate
from pruning.training.step import Step, capture

EXACT = Recipe(epochs=2, batch=32, lr=0.05, augment="none", precision="fp32")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks gain nothing from two, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """Two classes, dark and bright, in noise: easy to learn."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    images = torch.randint(0, 160, (200, 1, 8, 8)) + 90 * labels.view(-1, 1, 1, 1)
    return ImageSet(images.to(torch.uint8), labels, (0.5,), (0.25,), 2)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Dropout(0.1), nn.Flatten(), nn.Linear(72, 2),
    )  # fmt: skip


def losses(model: nn.Module, data: ImageSet, recipe: Recipe, **more: object) -> list[float]:
    return [r.train_loss for r in finetune(model, data, recipe, **more)]  # type: ignore[arg-type]


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


def test_a_rehearsal_leaves_no_trace(data: ImageSet) -> None:
    """What a capture does first must not change the training that follows."""
    plain, rehearsed = network(), network()
    for model in (plain, rehearsed):
        model.train()
    x, y = next(iter(data.batches(32)))
    steps = [Step(m, None, EXACT, torch.device("cpu")) for m in (plain, rehearsed)]
    start = {k: v.clone() for k, v in rehearsed.state_dict().items()}
    pointers = [p.data_ptr() for p in rehearsed.parameters()]
    steps[1].rehearse(x, y)
    assert all(torch.equal(v, start[k]) for k, v in rehearsed.state_dict().items())
    assert [p.data_ptr() for p in rehearsed.parameters()] == pointers
    for step in steps:
        torch.manual_seed(0)
        for _ in range(4):
            step(x, y)
    assert steps[0].mean_loss(4) == steps[1].mean_loss(4)
    for a, b in zip(plain.parameters(), rehearsed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_rehearsal_that_fails_leaves_no_trace_either(data: ImageSet) -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if len(steps) == 2:
                raise RuntimeError("called a synchronizing CUDA operation")
            steps.append(1)
            return x

    steps: list[int] = []
    model = nn.Sequential(network(), Waits()).train()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    step = Step(model, None, EXACT, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="synchronizing"):
        step.rehearse(*next(iter(data.batches(32))))
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert step.mean_loss(1) == 0


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


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_captured_and_eager_steps_give_the_same_losses(
    data: ImageSet, precision: str, momentum: float
) -> None:
    recipe = replace(EXACT, epochs=2.5, precision=precision, momentum=momentum, warmup=0.2)
    runs = [
        losses(network(), data, replace(recipe, cuda_graph=graph), device="cuda", seed=1)
        for graph in (True, False)
    ]
    assert runs[0] == pytest.approx(runs[1], rel=0.02 if precision == "bf16" else 5e-3)
    assert runs[0][-1] < runs[0][0]


@pytest.mark.gpu
@needs_gpu
def test_distillation_is_captured_too(data: ImageSet, recwarn: pytest.WarningsRecorder) -> None:
    recipe = replace(EXACT, distill=0.5, precision="fp32")
    runs = [
        losses(network(), data, replace(recipe, cuda_graph=graph), device="cuda", teacher=network())
        for graph in (True, False)
    ]
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)
    assert not [w for w in recwarn if "CUDA graph" in str(w.message)]


@pytest.mark.gpu
@needs_gpu
def test_a_step_that_cannot_be_captured_runs_eagerly_and_says_so(data: ImageSet) -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (1.0 if x.sum().item() > -1e30 else 0.0)

    model = nn.Sequential(Waits(), network())
    stream = torch.cuda.current_stream()
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        results = losses(model, data, EXACT, device="cuda")
    assert torch.cuda.current_stream() == stream
    plain = losses(network(), data, replace(EXACT, cuda_graph=False), device="cuda")
    assert results == pytest.approx(plain, rel=1e-3)


@pytest.mark.gpu
@needs_gpu
def test_a_finished_capture_gives_its_memory_back(data: ImageSet) -> None:
    resident = data.to("cuda")
    losses(network(), resident, EXACT)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        losses(network(), resident, EXACT)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_on_a_cpu_nothing_is_captured() -> None:
    step = Step(network(), None, EXACT, torch.device("cpu"))
    assert capture(step, (4, 1, 8, 8), 0) is step
    assert step_module.REHEARSALS >= 2  # the second step is the first that has momentum
