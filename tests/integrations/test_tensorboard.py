"""TensorBoard: what is written is read back from the event files."""

import io

import pytest
import torch
from torch import nn

import archcost

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from archcost.integrations.tensorboard import add_analysis


def convolutions(channels):
    model = nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Conv2d(channels, 4, 3))
    return archcost.analyze(model, input_size=(1, 3, 16, 16))


@pytest.fixture
def written(tmp_path):
    def read(*calls):
        with SummaryWriter(str(tmp_path)) as writer:
            for analysis, options in calls:
                add_analysis(writer, analysis, **options)
        events = EventAccumulator(str(tmp_path))
        events.Reload()
        return events

    return read


def test_the_table_is_text_the_totals_scalars_and_the_field_a_picture(written):
    from PIL import Image

    analysis = convolutions(8)
    events = written((analysis, {}))
    (text,) = events.Tensors("archcost/text_summary")
    assert text.tensor_proto.string_val[0].decode() == analysis.to_markdown()
    numbers = analysis.flat()
    scalars = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]}
    names = ("params", "macs", "peak_memory_bytes", "kept_for_backward_bytes")
    assert scalars == {f"archcost/{name}": numbers[name] for name in names}
    (picture,) = events.Images("archcost/receptive_field")
    image = Image.open(io.BytesIO(picture.encoded_image_string)).convert("L")
    assert image.size[0] > 400
    assert len(image.getcolors()) > 50  # lines and letters, not an empty sheet


def test_steps_and_tags_draw_a_model_that_is_pruned(written):
    before, after = convolutions(8), convolutions(4)
    events = written((before, {"tag": "net", "step": 0}), (after, {"tag": "net", "step": 100}))
    seen = [(event.step, event.value) for event in events.Scalars("net/macs")]
    assert seen == [(0, before.total.macs), (100, after.total.macs)]
    assert [event.step for event in events.Images("net/receptive_field")] == [0, 100]


def test_a_model_without_spatial_maps_has_no_picture(written):
    events = written((archcost.analyze(nn.Linear(3, 4), torch.rand(2, 3)), {}))
    assert events.Tags()["images"] == []
    assert "archcost/macs" in events.Tags()["scalars"]
