"""Models written the way papers and repositories write them, without a package: spellings that libraries hide."""

from __future__ import annotations

from outside.handwritten.conv import CONV
from outside.handwritten.ensembles import ENSEMBLES
from outside.handwritten.products import PRODUCTS
from outside.handwritten.spectral import SPECTRAL
from outside.handwritten.streams import STREAMS

HANDWRITTEN = (*STREAMS, *PRODUCTS, *SPECTRAL, *ENSEMBLES, *CONV)
