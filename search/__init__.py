"""The accuracy/MACs frontier of the slim versions of a trained CNN, found by Ray Tune.

    result = search.run(network, train, val, test, trials=50, out="runs/mine")
    result.frontier.to_pandas(); result.points[0].load(); result.plot(); result.report()

Names load on first use: importing this package alone costs neither torch nor Ray.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
