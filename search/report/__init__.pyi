from . import page as page
from .watching import Watcher as Watcher
from .watching import live_page as live_page
from .watching import panel as panel
