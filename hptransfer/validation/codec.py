"""JSON for frozen dataclasses lives in core, for parametrization writes reports too."""

from hptransfer.core.codec import decode as decode
from hptransfer.core.codec import encode as encode
