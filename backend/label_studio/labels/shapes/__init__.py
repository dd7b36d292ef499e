"""The shapes that are read and drawn, each in a file of its own; a new one is added here."""

from backend.label_studio.labels.shapes.brush import BRUSH
from backend.label_studio.labels.shapes.ellipse import ELLIPSE
from backend.label_studio.labels.shapes.polygon import POLYGON
from backend.label_studio.labels.shapes.rectangle import RECTANGLE

# The closest to a mask comes first. A draft takes the first shape that its label has a tool for; a
# value with the keys of several shapes is read as the first of them.
REGISTRY = {shape.name: shape for shape in (BRUSH, POLYGON, ELLIPSE, RECTANGLE)}
SHAPES = tuple(REGISTRY)

# Tags, and types of region, that draw with labels of their own and without. In lower case, because
# the editor ignores the case of tag names.
LABELLED = {shape.labels_tag.lower(): name for name, shape in REGISTRY.items()}
BARE = {tag.lower(): name for name, shape in REGISTRY.items() for tag in shape.bare_tags}
