# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The enhancement branch: the transform against torch's own, clips in a batch as if alone, the loss by hand."""

import pytest
import torch

from modeling_sparse_merit.models.sparse_merit.enhancement import (
    BidirectionalLSTM,
    Spectrogram,
    enhancement_loss,
    spectral_loss,
)

LENGTHS = torch.tensor([4000, 2345, 401, 1600])


@pytest.fixture(name="batch")
def noise_batch() -> torch.Tensor:
    values = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0))
    return values * (torch.arange(4000) < LENGTHS[:, None])


def torch_stft(clip: torch.Tensor) -> torch.Tensor:
    window = torch.hamming_window(400)
    return torch.stft(clip, 400, 160, 400, window, center=True, pad_mode="reflect", return_complex=True).T


def test_each_clip_is_transformed_as_if_alone(batch):
    transform = Spectrogram(400, 160, 400)
    spectrum = transform.transform(batch, LENGTHS)
    for clip, length, result, frames in zip(batch, LENGTHS, spectrum, transform.num_frames(LENGTHS), strict=True):
        expected = torch_stft(clip[:length])
        assert len(expected) == frames
        torch.testing.assert_close(result[:frames], expected, atol=1e-5, rtol=0)


def test_log_magnitude_is_that_of_the_paper(batch):
    expected = torch.log1p(torch_stft(batch[0]).abs() + 1e-6)
    transform = Spectrogram(400, 160, 400)
    torch.testing.assert_close(transform.log_magnitude(transform.transform(batch, LENGTHS))[0], expected)


@pytest.mark.parametrize("sizes", [(400, 160, 400), (512, 128, 400), (512, 100, 512)])
def test_the_inverse_recovers_every_clip(batch, sizes):
    transform = Spectrogram(*sizes)
    spectrum = transform.transform(batch, LENGTHS)
    back = transform.inverse(
        transform.with_phase(transform.log_magnitude(spectrum), spectrum.angle()), LENGTHS, batch.shape[1]
    )
    torch.testing.assert_close(back, batch, atol=2e-5, rtol=0)  # zero in the padding, as the batch is


def test_a_changed_magnitude_comes_back_as_from_torch_istft(batch):
    transform, clip = Spectrogram(400, 160, 400), batch[1, : LENGTHS[1]]
    spectrum = transform.transform(batch, LENGTHS)
    mask = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(1))
    back = transform.inverse(
        transform.with_phase(mask * transform.log_magnitude(spectrum), spectrum.angle()), LENGTHS, 4000
    )
    alone = torch_stft(clip)
    magnitude = (mask[1, : len(alone)] * torch.log1p(alone.abs() + 1e-6)).expm1() - 1e-6
    expected = torch.istft(
        torch.polar(magnitude, alone.angle()).T, 400, 160, 400, torch.hamming_window(400), length=len(clip)
    )
    torch.testing.assert_close(back[1, : len(clip)], expected, atol=1e-5, rtol=0)
    assert (back[1, len(clip) :] == 0).all()


def test_lstm_is_torchs_bidirectional_lstm_on_packed_clips():
    torch.manual_seed(0)
    ours, stock = BidirectionalLSTM(6, 2), torch.nn.LSTM(6, 6, 2, batch_first=True, bidirectional=True)
    for name, parameter in stock.named_parameters():
        direction = ours.backward_layers if name.endswith("_reverse") else ours.forward_layers
        kind, layer = name.removesuffix("_reverse").rsplit("_l", 1)
        getattr(direction[int(layer)], f"{kind}_l0").data.copy_(parameter)
    hidden, lengths = torch.randn(3, 9, 6), torch.tensor([9, 4, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(hidden, lengths, batch_first=True, enforce_sorted=False)
    expected = torch.nn.utils.rnn.pad_packed_sequence(stock(packed)[0], batch_first=True)[0]
    expected = expected[..., :6] + expected[..., 6:]
    valid = torch.arange(9) < lengths[:, None]
    torch.testing.assert_close(ours(hidden, lengths)[valid], expected[valid], atol=1e-6, rtol=0)


def test_loss_by_hand():
    predicted, clean = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    clean[1, 1:] = 100.0  # the second clip has one frame, the rest is padding
    clean[0, 0, 0] = 5.0
    # 6 + 2 values count: 5 + 5 * 1 + 2 * 1 = 12
    torch.testing.assert_close(enhancement_loss(predicted, clean, torch.tensor([3, 1])), torch.tensor(12 / 8))


def test_spectral_loss_by_hand():
    valid, samples = torch.tensor([1, 2]), torch.tensor([3, 4])
    clean = torch.full((2, 2, 1), 1.0 + 0j)
    clean[0, 1] = 99.0  # a frame in the padding
    waveform = torch.tensor([[2.0, 0.0, 0.0, 99.0], [0.0, 1.0, 1.0, 1.0]])
    assert spectral_loss(clean, clean, valid, waveform, waveform, samples).item() == pytest.approx(0.0, abs=1e-6)
    # silence instead: each of 3 bins is off by 1 in loudness and by 1 in the complex plane, and the SNR is 0 dB of 30
    silence = spectral_loss(clean * 0, clean, valid, waveform * 0, waveform, samples).item()
    loud = 1e-8**0.15  # what the floor leaves of nothing
    assert silence == pytest.approx((1 - loud) ** 2 + 1.0 + 0.03 * 30.0, abs=1e-4)
    # the other sign: as loud, 2 apart in the complex plane; noise of twice the amplitude is 6.02 dB above the speech
    opposite = spectral_loss(-clean, clean, valid, -waveform, waveform, samples).item()
    assert opposite == pytest.approx(4.0 + 0.03 * (30.0 + 6.0206), abs=1e-4)
