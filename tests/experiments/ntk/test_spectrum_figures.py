"""experiments/ntk/spectrum_figures.py: borders around cells, means over seeds, cells in their places."""
import numpy as np

from experiments.ntk.spectrum_figures import edges, finite_map, log_mean, mean


def test_edges_of_heat_maps_enclose_their_centres():
    for log in (False, True):
        centres = np.array([1, 4, 12, 32])
        borders = edges(centres, log=log)
        assert (borders[:-1] < centres).all() and (centres < borders[1:]).all()
    assert len(edges([2.0])) == 2


def test_means_over_seeds_leave_out_what_diverged():
    arrays = [{"a": np.array([1.0, np.nan, np.nan, 4.0])}, {"a": np.array([4.0, 2.0, np.nan, np.inf])}]
    np.testing.assert_array_equal(mean(arrays, "a"), [2.5, 2, np.nan, 4])
    np.testing.assert_allclose(log_mean(arrays, "a"), [2, np.nan, np.nan, np.nan])


def test_finite_networks_stand_at_their_variance_and_depth():
    cells = {"finite/weight_variance": np.array([3.0, 3.0, 0.5]), "finite/depth": np.array([8, 1, 8])}
    seeds = [{**cells, "finite/train": np.array([0.1, 0.2, 0.3]) + i, "finite/test": np.zeros(3)} for i in (0, 1)]
    variances, depths, (train, test) = finite_map(seeds)
    assert variances == [0.5, 3.0] and depths == [1, 8]
    np.testing.assert_allclose(train, [[np.nan, 0.8], [0.7, 0.6]])
    np.testing.assert_array_equal(test, [[np.nan, 0], [0, 0]])
