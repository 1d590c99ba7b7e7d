"""What is slimmed, on what data, by which loss, judged by which metric: tasks.

Everything above speaks to a `Workload`, a task on a device, and never to what it is about.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
