"""What axes too many, or in another place, are likely to be: for the message about shapes that do not fit.

Nothing is decided by it; what cannot be told is ''.
"""

from __future__ import annotations

Shape = tuple[int, ...]


def likely(channels: int | None, spatial: Shape, labels: Shape) -> str:
    """What to do about scores (channels, *spatial) of a case whose label map, or mask, has the shape `labels`."""
    if labels == (channels, *spatial) and channels != 1:
        one_hot = "These may be one-hot labels, whose arg max over the classes, labels.argmax(0), is the label map;"
        return f"{one_hot} or scores of one sigmoid without a class axis, which they need: scores[None] of each case."
    if labels == (*spatial, channels) and channels != 1:
        return "These seem to be one-hot labels: a label map is their arg max over the classes, labels.argmax(-1)."
    if labels in ((1, *spatial), (*spatial, 1)):
        at = "0" if labels[0] == 1 else "..., 0"
        return f"The label map has a channel axis of one: leave it out, labels[{at}] of each case."
    if labels == (channels, *spatial[:-1]):
        return (
            "The scores seem to have their classes on the last axis: say so with channel_axis=-1 (--channel-axis -1),"
            " or move it first in each case with np.moveaxis(scores, -1, 0)."
        )
    if channels == 1 and labels == spatial[1:]:
        return "The scores seem to have a batch axis before their classes: save scores[0]."
    return ""
