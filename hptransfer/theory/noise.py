"""The gradient noise scale: estimators, and a meter inside a training loop (docs/theory/batch.md)."""

from hptransfer.prediction.noise.noise_meter import NoiseScaleMeter as NoiseScaleMeter
from hptransfer.prediction.noise.noise_scale import NoiseScale as NoiseScale
from hptransfer.prediction.noise.noise_scale import microbatch_estimate as microbatch_estimate
from hptransfer.prediction.noise.noise_scale import predict_noise_scale as predict_noise_scale
from hptransfer.prediction.noise.noise_scale import two_batch_estimate as two_batch_estimate
