"""A daemon with models that see, and chains, for the tests of every door that pictures come by."""

from __future__ import annotations

from pathlib import Path

from onnx_models import OCR, adder, fetched, install
from photographs import encoded, plate, squares
from seeing_models import color_classifier, squares_detector

SCENE = encoded(squares((320, 320), ("red", 64, 32), ("blue", 240, 200)), "JPEG", quality=95)
PLATE = encoded(plate(), "JPEG", quality=90)

CHAINS = """
chains:
  line-report:
    see: squares
    prompt: |
      {{ detections | length }} things lie on line {{ line }}, shift {{ shift }}:
      {% for one in detections %}
      a {{ one.label }} one at {{ one.box[0] }}, {{ one.box[1] }}
      {% endfor %}
      Say what lies where.
    fields: {line: null, shift: 1}
    system: You write reports of one sentence.
    max_tokens: 16
  plate-report:
    see: plates
    prompt: "Copy: {{ detections | map(attribute='text') | join(', ') }}"
    max_tokens: 16
  blind: {see: sums, prompt: "{{ labels }}"}
  nowhere: {see: gone, prompt: "{{ labels }}"}
  speechless: {see: squares, prompt: "{{ labels }}", model: gone}
"""

MANIFESTS = {
    "squares": "task: detect\npicture: {format: yolov8, threshold: 0.9, labels: labels.txt}",
    "colors": "task: classify\npicture: {labels: [red, green, blue]}",
    "plates": "task: detect\npicture: {format: db, size: [960, 960], color: bgr, mean: [0.5],"
    " std: [0.5], then: letters}",
    "letters": "task: read\npicture: {size: [48, 320], color: bgr, mean: [0.5], std: [0.5]}",
}


def install_models(folder: Path) -> None:
    """squares, colors, plates with letters, and sums, for the daemon of that folder."""
    models = folder / "state" / "models"
    detector, labels = squares_detector(), b"red\ngreen\nblue\n"
    install(models, "squares", detector, manifest=MANIFESTS["squares"], labels__txt=labels)
    install(models, "colors", color_classifier(), manifest=MANIFESTS["colors"])
    install(models, "plates", fetched(OCR, "det_small.onnx"), manifest=MANIFESTS["plates"])
    install(models, "letters", fetched(OCR, "rec_small.onnx"), manifest=MANIFESTS["letters"])
    install(models, "sums", adder())
