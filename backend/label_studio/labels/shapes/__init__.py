"""The shapes that are read and drawn, each in a file of its own; a new one is added here."""

from backend.label_studio.labels.shapes.brush import BRUSH
from backend.label_studio.labels.shapes.ellipse import ELLIPSE
from backend.label_studio.labels.shapes.polygon import POLYGON
from backend.label_studio.labels.shapes.rectangle import RECTANGLE

# The order decides what a draft is drawn as where a label has several tools, and which shape a
# value with the keys of several is: the closest to a mask comes first.
REGISTRY = {shape.name: shape for shape in (BRUSH, POLYGON, ELLIPSE, RECTANGLE)}
SHAPES = tuple(REGISTRY)

# Tags, and types of region, that draw with labels of their own and without. In lower case, for the
# editor reads tag names without regard to case.
LABELLED = {shape.labels_tag.lower(): name for name, shape in REGISTRY.items()}
BARE = {tag.lower(): name for name, shape in REGISTRY.items() for tag in shape.bare_tags}
