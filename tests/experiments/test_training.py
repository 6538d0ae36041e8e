"""The loop learns, repeats itself to the last bit, goes on where it was stopped, and says why when it cannot."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scans import write_cohort

from kit.experiments import RunError, evaluate, hard_negatives, open_run, train, training
from kit.models import ModelError, Network, build
from kit.samplers import SCHEMES, Cohort, SamplerError, draw, patches, prepare

TINY = Network("tiny", (1, 13, 13), "conv3-4 mp-3-2", (16, 2))  # has dropout, so that its randomness is tested too
SEGMENTS = {"examples": "segments", "steps_per_epoch": 6, "validation_patches": 64, "device": "cpu", "progress": False}
BUDGET = {"patches_per_epoch": 128, "validation_patches": 64, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """(training, validation), the second with the first one's statistics."""
    folder = tmp_path_factory.mktemp("scans")
    table = write_cohort(folder, seeds=[1, 2, 3])
    first = prepare(table[:2], folder / "cache", progress=False)
    return first, prepare(table[2:], folder / "cache", statistics=first.statistics, progress=False)


def without_seconds(history):
    return history.drop(columns="seconds").to_csv(index=False)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_network_a_learns_bright_balls_within_a_few_hundred_patches(cohorts):
    given = {**BUDGET, "patches_per_epoch": 320}
    history = train(build("A", seed=1), *cohorts, epochs=2, seed=1, **given)
    assert history.validation_accuracy.max() > 0.8
    assert list(history) == [
        *("epoch", "voxels_learnt", "patches_worth", "learning_rate", "train_loss", "train_accuracy"),
        *("validation_loss", "validation_accuracy", "validation_recall", "validation_precision", "seconds"),
    ]
    assert history.patches_worth.tolist() == [320, 640]


def test_the_same_seed_gives_the_same_history_and_weights_and_another_seed_others(cohorts):
    networks = [build(TINY, seed=1) for _ in range(3)]
    histories = [
        without_seconds(train(n, *cohorts, epochs=2, seed=s, **BUDGET))
        for n, s in zip(networks, (5, 5, 6), strict=True)
    ]
    assert histories[0] == histories[1] != histories[2]
    assert same_weights(networks[0], networks[1])
    assert not same_weights(networks[0], networks[2])


def test_torchs_global_random_state_is_left_alone(cohorts):
    before = torch.get_rng_state()
    train(build(TINY, seed=1), *cohorts, epochs=1, **BUDGET)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(cohorts, tmp_path, monkeypatch):
    whole, stopped = (open_run(tmp_path / name, {"seed": 1}) for name in ("whole", "stopped"))
    wanted = build(TINY, seed=1)
    history = train(wanted, *cohorts, epochs=5, seed=1, patience=1, run=whole, **BUDGET)

    calls = itertools.count(1)
    real = training.learn_patches

    def interrupted(*given):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(training, "learn_patches", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(build(TINY, seed=1), *cohorts, epochs=5, seed=1, patience=1, run=stopped, **BUDGET)
    assert len(stopped.load_table("history")) == 3
    resumed = build(TINY, seed=2)  # other first weights: they must not matter
    found = train(resumed, *cohorts, epochs=5, seed=1, patience=1, run=stopped, **BUDGET)

    assert without_seconds(found) == without_seconds(history) == without_seconds(stopped.load_table("history"))
    assert same_weights(wanted, resumed)
    assert stopped.weights_path.read_bytes() == whole.weights_path.read_bytes()
    kept, other = (run.load_checkpoint()[0] for run in (whole, stopped))
    assert all(torch.equal(kept[name], other[name]) for name in kept)


def test_a_finished_run_is_returned_at_once_and_goes_on_with_more_epochs(cohorts, tmp_path, monkeypatch):
    run = open_run(tmp_path, {})
    history = train(build(TINY, seed=1), *cohorts, epochs=2, run=run, **BUDGET)
    monkeypatch.setattr(training, "evaluate", None)
    assert train(build(TINY, seed=1), *cohorts, epochs=2, run=run, **BUDGET).equals(history)
    monkeypatch.undo()
    assert len(train(build(TINY, seed=1), *cohorts, epochs=3, run=run, **BUDGET)) == 3


def test_a_run_is_not_resumed_with_other_settings_or_scans(cohorts, tmp_path):
    run = open_run(tmp_path, {})
    train(build(TINY, seed=1), *cohorts, epochs=1, run=run, **BUDGET)
    with pytest.raises(RunError, match=r"learning_rate is 0\.02, but this run was started with 0\.01"):
        train(build(TINY, seed=1), *cohorts, epochs=2, run=run, learning_rate=0.02, **BUDGET)
    with pytest.raises(RunError, match="training_scans"):
        train(build(TINY, seed=1), cohorts[1], cohorts[1], epochs=2, run=run, **BUDGET)
    with pytest.raises(RunError, match="network is 'A'"):
        train(build("A", seed=1), *cohorts, epochs=2, run=run, **BUDGET)


def test_the_learning_rate_falls_on_a_plateau_and_training_ends_after_the_last_drop(cohorts, monkeypatch):
    losses = iter([1.0, 0.5, 0.6, 0.7, 0.4, 0.5, 0.5, 0.9, 0.9, 0.1])
    seen = dict.fromkeys(("validation_accuracy", "validation_recall", "validation_precision"), 0.5)
    monkeypatch.setattr(training, "evaluate", lambda *a, **k: {"validation_loss": next(losses), **seen})
    history = train(build(TINY, seed=1), *cohorts, epochs=20, patience=2, drops=2, **BUDGET)
    rates = [0.01] * 4 + [0.001] * 3 + [0.0001] * 2
    assert history.learning_rate.tolist() == pytest.approx(rates)
    assert history.validation_loss.tolist() == [1.0, 0.5, 0.6, 0.7, 0.4, 0.5, 0.5, 0.9, 0.9]


def test_a_smaller_learning_rate_starts_from_the_best_weights_and_at_rest(cohorts, monkeypatch):
    losses, seen, learn = iter([1.0, 0.5, 0.9, 0.4]), [], training.learn_patches

    def spied(network, optimizer, *given):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        moving = [state["momentum_buffer"].abs().max().item() for state in optimizer.state.values()]
        learnt = learn(network, optimizer, *given)
        seen.append((before, moving, {name: tensor.clone() for name, tensor in network.state_dict().items()}))
        return learnt

    monkeypatch.setattr(training, "learn_patches", spied)
    monkeypatch.setattr(training, "evaluate", lambda *_, **__: {"validation_loss": next(losses)})
    history = train(build(TINY, seed=1), *cohorts, epochs=4, patience=1, seed=1, **BUDGET)
    assert history.learning_rate.tolist() == [0.01, 0.01, 0.01, 0.001]
    best, (start, moving, _) = seen[1][2], seen[3]
    assert all(torch.equal(best[name], start[name]) for name in best)
    assert max(moving) == 0
    assert max(seen[2][1]) > 0


def test_the_network_ends_with_the_weights_of_its_best_epoch(cohorts, monkeypatch, tmp_path):
    losses, kept = iter([0.9, 0.3, 0.8]), []

    def scores(network, *given, **more):
        kept.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"validation_loss": next(losses)}

    monkeypatch.setattr(training, "evaluate", scores)
    network = build(TINY, seed=1)
    train(network, *cohorts, epochs=3, run=open_run(tmp_path, {}), **BUDGET)
    assert all(torch.equal(network.state_dict()[name], kept[1][name]) for name in kept[1])


def test_evaluation_agrees_with_counting_by_hand(cohorts):
    network = build(TINY, seed=3).eval()
    rows = draw(cohorts[1], limit=90)
    with torch.no_grad():
        logits = network(patches(cohorts[1], rows, network.patch_shape))
    lesion, called = rows.label.to_numpy(), (logits[:, 1] > logits[:, 0]).numpy()
    found = evaluate(network, cohorts[1], rows, batch_size=32)
    assert found["validation_accuracy"] == pytest.approx(np.mean(lesion == called))
    assert found["validation_recall"] == pytest.approx(np.mean(called[lesion]))
    assert found["validation_precision"] == pytest.approx(np.mean(lesion[called]))
    chance = torch.softmax(logits, 1)[torch.arange(len(rows)), torch.from_numpy(lesion.astype(int))]
    assert found["validation_loss"] == pytest.approx(-chance.log().mean().item(), rel=1e-5)


def test_precision_is_not_a_number_where_nothing_was_called_lesion(cohorts):
    network = build(TINY, seed=3)
    with torch.no_grad():
        network.head[-1].bias.copy_(torch.tensor([1e4, 0.0]))
    found = evaluate(network, cohorts[1], draw(cohorts[1], limit=20))
    assert np.isnan(found["validation_precision"])
    assert found["validation_recall"] == 0


def test_class_weights_count_in_the_loss(cohorts):
    ratio = train(build(TINY, seed=1), *cohorts, epochs=1, scheme="ratio", learning_rate=1e-9, **BUDGET)
    rows = draw(cohorts[0], "ratio", 0, 1, limit=128)
    assert rows.label.sum() == 11
    assert ratio.train_loss[0] > 0


def test_a_loss_that_is_no_number_ends_with_a_remedy_and_keeps_the_last_good_epoch(cohorts, tmp_path):
    network, run = build(TINY, seed=1), open_run(tmp_path, {})
    with torch.no_grad():
        network.head[-1].bias.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"loss is nan. It began with learning_rate=0\.01: try 0\.001"):
        train(network, *cohorts, epochs=1, run=run, **BUDGET)
    assert run.load_checkpoint() is None


@pytest.mark.parametrize("examples", ["patches", "segments"])
def test_bfloat16_trains_and_leaves_float32_weights(cohorts, examples):
    network = build(TINY, seed=1)
    given = BUDGET if examples == "patches" else SEGMENTS | {"scheme": "hard-negatives", "hard_scans": 0}
    history = train(network, *cohorts, epochs=1, dtype="bfloat16", **given)
    assert np.isfinite(history.validation_loss[0])
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}


def test_unknown_words_are_told_with_the_choices(cohorts):
    with pytest.raises(ModelError, match="dtype='float16': choose one of float32, bfloat16"):
        train(build(TINY, seed=1), *cohorts, dtype="float16", **BUDGET)
    with pytest.raises(SamplerError, match="choose one of balanced, ratio"):
        train(build(TINY, seed=1), *cohorts, scheme="pairs", **BUDGET)


def test_the_progress_bar_is_shown_when_asked_for(cohorts, capsys):
    train(build(TINY, seed=1), *cohorts, epochs=1, **{**BUDGET, "progress": True})
    shown = capsys.readouterr()
    assert "training" in shown.err
    assert shown.out == ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_repeats_itself_and_learns_as_a_cpu_does(cohorts):
    given = {**BUDGET, "device": "cuda"}
    histories = [train(build(TINY, seed=1), *cohorts, epochs=2, **given) for _ in range(2)]
    assert without_seconds(histories[0]) == without_seconds(histories[1])


@pytest.mark.parametrize("network", [TINY, "FCN"])
def test_a_resident_cohort_trains_as_one_on_the_host_does(cohorts, network):
    given = {**BUDGET, "patches_per_epoch": 96, "validation_patches": 32, "epochs": 1, "seed": 3}
    histories = [train(build(network, seed=1), *cohorts, resident=where, **given) for where in (False, True)]
    a, b = (history.drop(columns="seconds").iloc[0] for history in histories)
    np.testing.assert_allclose(a.to_numpy(float), b.to_numpy(float), rtol=0.02)


@pytest.mark.slow
def test_the_fcn_learns_from_maps_of_outputs_and_is_scored_voxel_by_voxel(cohorts):
    history = train(build("FCN", seed=1), *cohorts, epochs=2, seed=1, **{**BUDGET, "patches_per_epoch": 320})
    assert history.validation_accuracy.max() > 0.8
    assert history.patches_worth.tolist() == [320, 640]


@pytest.mark.parametrize("scheme", ["border-pairs", "eroded-border-pairs"])
def test_training_takes_border_pairs(cohorts, scheme):
    history = train(build(TINY, seed=1), *cohorts, epochs=1, scheme=scheme, **BUDGET)
    assert 100 < history.patches_worth[0] <= 128


@pytest.mark.parametrize("scheme", SCHEMES)
def test_segments_of_every_scheme_give_the_same_history_and_weights_again(cohorts, scheme):
    given = SEGMENTS | {"scheme": scheme, "hard_scans": 1, "epochs": 2, "seed": 5}
    networks = [build(TINY, seed=1) for _ in range(2)]
    histories = [train(network, *cohorts, **given) for network in networks]
    assert without_seconds(histories[0]) == without_seconds(histories[1])
    assert same_weights(*networks)
    assert np.isfinite(histories[0].train_loss).all()
    assert (histories[0].voxels_learnt.diff().dropna() > 6 * 100).all()


def test_segments_teach_a_network_bright_balls_in_a_few_steps(cohorts):
    history = train(build("A", seed=1), *cohorts, epochs=3, seed=1, **SEGMENTS | {"steps_per_epoch": 8})
    assert history.validation_accuracy.iloc[-1] > 0.8


def test_a_stopped_run_on_segments_goes_on_to_the_same_bytes(cohorts, tmp_path, monkeypatch):
    given = SEGMENTS | {"scheme": "hard-negatives", "hard_scans": 1, "epochs": 3, "seed": 5}
    whole = build(TINY, seed=1)
    history = train(whole, *cohorts, run=open_run(tmp_path / "whole", {}), **given)
    calls = itertools.count()

    def killed(*arguments, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(training, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(build(TINY, seed=1), *cohorts, run=open_run(tmp_path / "part", {}), **given)
    resumed = build(TINY, seed=9)
    again = train(resumed, *cohorts, run=open_run(tmp_path / "part", {}), **given)
    assert without_seconds(again) == without_seconds(history)
    assert same_weights(whole, resumed)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]


@pytest.fixture(scope="module")
def brains(cohorts):
    """The same scans as if normalised by their brains, which end halfway."""
    beyond = np.broadcast_to(np.arange(96, dtype=np.int8) - 48, cohorts[0].scans[0].volume.shape)
    with_brain = [[replace(scan, brain=(300.0, 120.0), beyond=beyond) for scan in one.scans] for one in cohorts]
    return [Cohort(tuple(scans), "brain") for scans in with_brain]


@pytest.mark.parametrize("given", [SEGMENTS, BUDGET])
def test_a_run_with_other_scanners_looks_goes_on_to_the_same_bytes(brains, tmp_path, monkeypatch, given):
    given = given | {"augment": "scanner", "epochs": 2, "seed": 5}
    whole = build(TINY, seed=1)
    history = train(whole, *brains, run=open_run(tmp_path / "whole", {}), **given)
    calls = itertools.count()

    def killed(*arguments, **options):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return evaluate(*arguments, **options)

    monkeypatch.setattr(training, "evaluate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(build(TINY, seed=1), *brains, run=open_run(tmp_path / "part", {}), **given)
    resumed = build(TINY, seed=9)
    again = train(resumed, *brains, run=open_run(tmp_path / "part", {}), **given)
    assert without_seconds(again) == without_seconds(history)
    assert same_weights(whole, resumed)
    plain = train(build(TINY, seed=1), *brains, **given | {"augment": "none"})
    assert without_seconds(plain) != without_seconds(history)
    with pytest.raises(RunError, match="augment is 'none'"):
        train(build(TINY, seed=1), *brains, run=open_run(tmp_path / "part", {}), **given | {"augment": "none"})


def test_scans_that_are_not_normalised_by_their_brains_get_no_other_looks(cohorts):
    with pytest.raises(SamplerError, match="intensities='brain'"):
        train(build(TINY, seed=1), *cohorts, augment="scanner", **SEGMENTS)


def test_the_learning_rate_on_segments_falls_by_the_share_of_the_run(cohorts):
    history = train(build(TINY, seed=1), *cohorts, epochs=15, **SEGMENTS | {"steps_per_epoch": 1})
    np.testing.assert_allclose(history.learning_rate, [0.01] * 9 + [0.003] * 3 + [0.0009] * 2 + [0.00027])


def test_a_run_by_wall_clock_ends_in_its_time(cohorts):
    given = SEGMENTS | {"minutes": 1 / 60, "epochs": 2}
    history = train(build(TINY, seed=1), *cohorts, **given)
    assert len(history) == 2
    assert (history.voxels_learnt.diff().dropna() > 0).all()


def test_patches_worth_is_the_arithmetic_of_so_many_patches(cohorts):
    history = train(build("D", seed=1), *cohorts, epochs=1, **SEGMENTS | {"steps_per_epoch": 1})
    # by hand, multiplications of one patch of D and of a crop of 111x111 before the voxels' own layers
    assert 40 < history.patches_worth[0] < 70
    assert history.voxels_learnt[0] > 2 * history.patches_worth[0]


def test_hard_negatives_are_healthy_places_far_from_lesions_that_the_network_takes_for_lesions(cohorts):
    network = build(TINY, seed=1)
    train(network, *cohorts, epochs=1, **SEGMENTS)
    with torch.no_grad():
        network.head[-1].bias += torch.tensor([-9.0, 9.0])  # takes everything for a lesion
    found = hard_negatives(network.eval(), cohorts[0], 0, 1, scans=2, device="cpu")
    assert set(found.scan) == {0, 1}
    assert (found.groupby("scan").size() <= 200).all()
    assert (found.probability >= 0.5).all()
    for index, rows in found.groupby("scan"):
        scan = cohorts[0].scans[index]
        flat = np.ravel_multi_index(rows[["slice", "row", "column"]].to_numpy().T, scan.volume.shape)
        assert np.isin(flat, scan.healthy).all()
        lesions = np.argwhere(scan.label)
        apart = [np.linalg.norm(lesions - place, axis=1).min() for place in rows[["slice", "row", "column"]].to_numpy()]
        assert min(apart) >= 5


def test_words_that_a_way_of_training_does_not_know_are_refused_before_anything_is_learnt(cohorts):
    with pytest.raises(ModelError, match="examples='segment': choose one of segments, patches"):
        train(build(TINY, seed=1), *cohorts, **SEGMENTS | {"examples": "segment"})
    with pytest.raises(SamplerError, match="examples='segments'"):
        train(build(TINY, seed=1), *cohorts, scheme="hard-negatives", epochs=1, **BUDGET)
