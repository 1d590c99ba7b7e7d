from .images import Batch as Batch
from .images import Batches as Batches
from .images import Images as Images
from .images import ImageSet as ImageSet
from .images import augmentation as augmentation
from .streams import StreamSet as StreamSet
from .streams import shorter_side as shorter_side
