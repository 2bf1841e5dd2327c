"""The figures show the numbers of the result, and nothing else."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.report import figures
from nysstream.trace import Cost, PassRecord
from tests.report.making import make_result


def artists(figure, gid):
    """List what a figure drew under a name."""
    (axes,) = figure.axes
    return [artist for artist in axes.get_children() if artist.get_gid() == gid]


def lines(figure, gid):
    return [np.array([line.get_xdata(), line.get_ydata()]) for line in artists(figure, gid)]


def texts(figure):
    (axes,) = figure.axes
    legends = [axes.get_legend(), *figure.legends]
    return [text.get_text() for text in axes.texts] + [
        text.get_text() for legend in legends if legend is not None for text in legend.get_texts()
    ]


# --- convergence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_systems", [1, 3, 10])
def test_convergence_draws_every_system_over_all_passes(n_systems):
    result = make_result(n_systems=n_systems)
    drawn = lines(figures.convergence(result, tol=1e-6), "fit")
    assert len(drawn) == n_systems
    for i, (x, y) in enumerate(drawn):
        np.testing.assert_array_equal(x, [record["passes"] + 1 for record in result.history])
        np.testing.assert_array_equal(y, [record["relative_residuals"][i] for record in result.history])


def test_convergence_marks_the_tolerance_and_the_recomputed_residual():
    result = make_result()
    figure = figures.convergence(result, tol=3e-5)
    assert {float(y) for y in lines(figure, "tolerance")[0][1]} == {3e-5}
    assert lines(figure, "final")[0].ravel().tolist() == [7, 8.76e-8]
    low, high = figure.axes[0].get_ylim()
    assert low < 8.76e-8 < 3e-5 < high


def test_convergence_counts_the_passes_before_the_solver():
    result = make_result()
    sampled = [result.passes[0], PassRecord("sample", 0.0, 0.1, Cost()), *result.passes[1:]]
    result = make_result(passes=sampled)
    assert lines(figures.convergence(result), "fit")[0][0, 0] == 2


def test_many_systems_are_thinned_to_ten_and_counted():
    figure = figures.convergence(make_result(n_systems=37), labels=[f"α = {i}" for i in range(37)])
    assert len(artists(figure, "fit")) == 10
    assert {"α = 0", "α = 36"} <= set(texts(figure))
    assert figure.axes[0].get_legend().get_title().get_text() == "10 of 37 systems"


def test_a_long_history_is_thinned_but_keeps_its_ends():
    result = make_result(n_steps=20_000)
    ((x, y),) = lines(figures.convergence(result), "fit")
    assert x.size <= figures.MAX_POINTS
    assert (x[0], x[-1]) == (1, 20_001)
    assert (y[0], y[-1]) == (1.0, result.history[-1]["relative_residual"])


def test_extra_histories_are_drawn_by_their_worst_column():
    extra = make_result(n_steps=9, n_systems=2).history
    figure = figures.convergence(make_result(), extra_histories={"plain CG": extra})
    ((x, y),) = lines(figure, "extra")
    np.testing.assert_array_equal(x, np.arange(1, 11))
    np.testing.assert_array_equal(y, [record["relative_residual"] for record in extra])
    assert "plain CG" in texts(figure)


def test_records_with_the_worst_residual_alone_are_enough():
    history = [{"passes": i, "relative_residual": 0.1**i} for i in range(4)]
    ((_, y),) = lines(figures.convergence(make_result(history=history)), "fit")
    np.testing.assert_array_equal(y, [0.1**i for i in range(4)])


def test_residuals_of_zero_and_no_history_at_all_are_drawn():
    zeros = [{"passes": 0, "relative_residual": 0.0, "relative_residuals": [0.0, 0.0]}]
    figure = figures.convergence(make_result(history=zeros, stats={"relative_residual": 0.0}), tol=1e-6)
    assert figure.axes[0].get_yscale() == "linear"
    assert len(artists(figure, "fit")) == 2
    assert lines(figures.convergence(make_result(history=[])), "fit")[0].size == 0


def test_labels_that_matplotlib_would_read_as_commands_stay_as_they_are():
    extra = {"_hidden": make_result().history, "$x_{$ \\frac": make_result().history}
    figure = figures.convergence(make_result(), extra_histories=extra)
    figure.canvas.draw()
    shown = texts(figure)
    assert "$x_{$ \\frac" in shown
    assert any(text.endswith("_hidden") for text in shown)


# --- spectrum ------------------------------------------------------------------------------------


def test_spectrum_draws_eigenvalues_shifts_floor_and_bracket():
    result = make_result()
    figure = figures.spectrum(result, shifts=[1e-3, 1e-1, 0.0, 1e-3])
    ((x, y),) = lines(figure, "eigenvalues")
    np.testing.assert_array_equal(x, np.arange(1, 9))
    np.testing.assert_array_equal(y, result.spectrum)
    assert [float(y[0]) for _, y in lines(figure, "shift")] == [1e-3, 1e-1]
    assert float(lines(figure, "floor")[0][1, 0]) == result.certificate.noise_floor
    (band,) = artists(figure, "bracket")
    assert (band.get_x(), band.get_x() + band.get_width()) == (5.25, 17.75)
    assert {"α = 0.001", "α = 0.1", "effective dimension 5.2 to 17.8"} <= set(texts(figure))


@pytest.mark.parametrize("upper", [12.0, 5000.0])
def test_spectrum_has_room_for_the_bracket(upper):
    figure = figures.spectrum(make_result(stats={"effective_dimension": [5.0, upper]}), shifts=[1e-2])
    assert figure.axes[0].get_xlim()[1] > upper


def test_a_noise_floor_far_below_is_named_and_not_drawn():
    result = make_result(spectrum=np.ones(3))
    figure = figures.spectrum(result)
    assert not [line for line in figure.axes[0].lines if line.get_gid() == "floor"]
    assert "noise floor 1.0e-09, far below ↓" in texts(figure)


def test_labels_of_close_shifts_do_not_cover_each_other():
    figure = figures.spectrum(make_result(), shifts=[1e-3, 1.01e-3, 1.02e-3])
    assert len(lines(figure, "shift")) == 3
    assert sum(text.startswith("α") for text in texts(figure)) == 1


def test_many_shifts_are_thinned_but_keep_their_ends():
    drawn = [y[0] for _, y in lines(figures.spectrum(make_result(), shifts=np.logspace(-9, 3, 50)), "shift")]
    assert len(drawn) == figures.MAX_SHIFTS
    np.testing.assert_allclose([drawn[0], drawn[-1]], [1e-9, 1e3])


@pytest.mark.parametrize("rank", [1, 3])
def test_a_flat_or_tiny_spectrum_has_labelled_ticks(rank):
    figure = figures.spectrum(make_result(spectrum=np.full(rank, 2.0)))
    figure.canvas.draw()
    assert [label for label in figure.axes[0].get_yticklabels() if label.get_text()]


@pytest.mark.parametrize("spectrum", [None, np.zeros(0)])
def test_no_spectrum_is_refused(spectrum):
    with pytest.raises(InputError, match="no spectrum to draw"):
        figures.spectrum(make_result(spectrum=spectrum))


# --- time per pass -------------------------------------------------------------------------------


def bars(figure, gid):
    (axes,) = figure.axes
    return [patch for patch in axes.patches if patch.get_gid() == gid]


def test_pass_times_stack_computing_upwards_and_reading_downwards():
    result = make_result()
    figure = figures.pass_times(result)
    costs = [record.cost for record in result.passes]
    heights = {
        name: [bar.get_height() for bar in bars(figure, name)] for name in ("features", "products", "wait")
    }
    assert heights["features"] == [cost.feature_seconds for cost in costs]
    assert heights["products"] == [cost.product_seconds for cost in costs]
    assert heights["wait"] == [cost.wait_seconds for cost in costs]
    assert [bar.get_height() for bar in bars(figure, "read")] == [-cost.read_seconds for cost in costs]
    tops = [bar.get_y() + bar.get_height() for bar in bars(figure, "wait")]
    assert tops == [c.feature_seconds + c.product_seconds + c.wait_seconds for c in costs]
    (wall,) = artists(figure, "wall")
    assert [segment[0, 1] for segment in wall.get_segments()] == [record.seconds for record in result.passes]


@pytest.mark.parametrize("n_steps", [59, 60, 61, 200, 5000])
def test_many_passes_are_grouped_without_losing_time(n_steps):
    result = make_result(n_steps=n_steps - 2)
    edges, seconds = figures.grouped_passes(result)
    assert len(edges) - 1 <= figures.MAX_BARS
    assert (edges[0], edges[1], edges[-1]) == (0, 1, n_steps)
    total = sum(record.cost.product_seconds for record in result.passes)
    np.testing.assert_allclose(np.sum(seconds["products"] * np.diff(edges)), total)
    assert len(bars(figures.pass_times(result), "features")) == len(edges) - 1


def test_short_passes_are_drawn_in_milliseconds():
    record = PassRecord("set-up", 0.0, 0.004, Cost(product_seconds=0.003))
    figure = figures.pass_times(make_result(passes=[record]))
    assert [bar.get_height() for bar in bars(figure, "products")] == [3.0]
    assert figure.axes[0].get_ylabel() == "task-milliseconds per pass"


# --- memory --------------------------------------------------------------------------------------


def test_memory_stacks_the_needs_beside_peak_and_limit():
    result = make_result()
    figure = figures.memory(result)
    widths = [bar.get_width() for bar in bars(figure, "need")]
    assert widths == [120, 64, 9, 3]  # MiB
    assert [bar.get_x() for bar in bars(figure, "need")] == [0, 120, 184, 193]
    (peak,) = bars(figure, "peak")
    assert peak.get_width() == 234_567_890 / 2**20
    assert float(lines(figure, "limit")[0][0, 0]) == 456_789_012 / 2**20
    assert {"196 MiB", "224 MiB", "limit 436 MiB", "tiles, 9 MiB"} <= set(texts(figure))


def test_a_limit_far_away_is_named_and_not_drawn():
    figure = figures.memory(make_result(stats={"memory_limit_bytes": 64 << 30}))
    assert not artists(figure, "limit")
    assert "limit 64 GiB →" in texts(figure)


def test_the_smallest_needs_are_gathered_where_colours_run_out():
    needs = {"process": 1 << 20} | {f"part {i}": 1 << i for i in range(12)}
    shown = figures.main_needs(make_result(needs=needs))
    assert sum(shown.values()) == sum(needs.values())
    assert list(shown)[-1] == "other"
    assert len(shown) == figures.MAX_PARTS + 1


def test_memory_is_drawn_without_any_number():
    stats = {"memory_limit_bytes": None, "peak_bytes": None}
    assert not bars(figures.memory(make_result(needs={}, stats=stats)), "need")


# --- all -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [figures.convergence, figures.pass_times, figures.memory, figures.spectrum])
def test_axes_are_labelled(draw):
    (axes,) = draw(make_result()).axes
    assert axes.get_xlabel()
    assert axes.get_ylabel() or [label.get_text() for label in axes.get_yticklabels()]


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install nysstream\[plots\]"):
        figures.convergence(make_result())


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figures.memory(make_result())
    assert dict(mpl.rcParams) == before
