"""Pictures over HTTP, against the whole appliance: every way in and out, and hostile bodies."""

from __future__ import annotations

import base64
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import DaemonProcess, poll, running
from onnx_models import OCR, adder, fetched, install
from photographs import PLATE_TEXTS, encoded, plate, png, squares
from PIL import Image
from seeing_models import color_classifier, squares_detector

SCENE = encoded(squares((320, 320), ("red", 64, 32), ("blue", 240, 200)), "PNG")
JPEG = encoded(squares((320, 320), ("red", 64, 32)), "JPEG", quality=95)

DETECTIONS = [
    {"label": "red", "score": 1.0, "number": 0, "box": [64.0, 32.0, 96.0, 64.0]},
    {"label": "blue", "score": 1.0, "number": 2, "box": [240.0, 200.0, 272.0, 232.0]},
]

MANIFESTS = {
    "squares": "task: detect\npicture: {format: yolov8, threshold: 0.9, labels: labels.txt}",
    "colors": "task: classify\npicture: {labels: [red, green, blue]}",
    "plates": """
task: detect
picture: {format: db, size: [960, 960], color: bgr, mean: [0.5], std: [0.5], then: letters}
""",
    "letters": """
task: read
picture: {size: [48, 320], color: bgr, mean: [0.5], std: [0.5]}
""",
}
"""The last two are those that docs/onnx.md shows."""


class Snapshot(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(SCENE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def camera() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Snapshot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path, camera: str
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("vision")
    models = folder / "state" / "models"
    install(
        models,
        "squares",
        squares_detector(),
        manifest=MANIFESTS["squares"],
        labels__txt=b"red\ngreen\nblue\n",
    )
    install(models, "colors", color_classifier(), manifest=MANIFESTS["colors"])
    install(models, "plates", fetched(OCR, "det_small.onnx"), manifest=MANIFESTS["plates"])
    install(models, "letters", fetched(OCR, "rec_small.onnx"), manifest=MANIFESTS["letters"])
    install(models, "sums", adder())
    with running(folder, default_model_path, onnx__picture_hosts=f"['{camera}']") as daemon:
        yield daemon


def post(daemon: DaemonProcess, model: str = "squares", **how: Any) -> httpx.Response:
    return daemon.http.post(f"{daemon.url}/v1/vision/{model}", **how)


def ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()["error"]
    return found


def picture(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    return Image.open(BytesIO(response.content))


# Ways in


def test_a_picture_as_it_is(daemon: DaemonProcess) -> None:
    """The body is the file, as `curl --data-binary @part.jpg` sends it."""
    response = post(daemon, content=SCENE, headers={"content-type": "image/png"})
    found = ok(response)
    assert found["object"] == "sighting"
    assert (found["model"], found["version"]) == ("squares", 1)
    assert (found["width"], found["height"]) == (320, 320)
    assert found["detections"] == DETECTIONS
    assert response.headers["x-edge-model"] == "squares"
    assert response.headers["x-edge-route"] == "local"
    (red,) = ok(post(daemon, content=JPEG, headers={"content-type": "image/jpeg"}))["detections"]
    assert red["box"] == DETECTIONS[0]["box"]


def test_a_form(daemon: DaemonProcess) -> None:
    """As browsers and `curl -F` send it, with fields beside the file."""
    files = {"file": ("part.png", SCENE, "image/png")}
    assert ok(post(daemon, files=files))["detections"] == DETECTIONS
    found = ok(post(daemon, "colors", files=files, data={"top_k": "1"}))
    assert [one["label"] for one in found["labels"]] == ["red"]


def test_json(daemon: DaemonProcess) -> None:
    """base64, alone or in a data: URL."""
    text = base64.b64encode(SCENE).decode()
    for image in (text, f"data:image/png;base64,{text}"):
        assert ok(post(daemon, json={"image": image}))["detections"] == DETECTIONS
    small = encoded(squares((320, 320), ("red", 64, 32), side=24), "PNG")
    unsure = {"image": base64.b64encode(small).decode()}
    assert ok(post(daemon, json=unsure))["detections"] == []
    assert ok(post(daemon, json={**unsure, "threshold": 0.5}))["detections"] != []
    found = ok(post(daemon, "colors", json={"image": text, "top_k": 2}))
    assert len(found["labels"]) == 2


def test_an_address(daemon: DaemonProcess, camera: str) -> None:
    """Fetched from a camera that the configuration lists, and from nowhere else."""
    found = ok(post(daemon, json={"image": f"http://{camera}/snapshot.png"}))
    assert found["detections"] == DETECTIONS
    refusal = error(post(daemon, json={"image": f"{daemon.url}/v1/models"}), 400)
    assert refusal["param"] == "image"
    assert "not fetched" in refusal["message"]


def test_octets(daemon: DaemonProcess) -> None:
    """A client that does not know what it sends."""
    headers = {"content-type": "application/octet-stream"}
    assert ok(post(daemon, content=SCENE, headers=headers))["detections"] == DETECTIONS


@pytest.mark.parametrize("path", ["", "/versions/1"])
def test_the_path_of_tensors(daemon: DaemonProcess, path: str) -> None:
    """KServe's route takes pictures too, by their content type; errors are that protocol's."""
    url = f"{daemon.url}/v2/models/squares{path}/infer"
    headers = {"content-type": "image/png"}
    response = daemon.http.post(url, content=SCENE, headers=headers)
    assert ok(response)["detections"] == DETECTIONS
    assert ok(daemon.http.post(url, files={"file": SCENE}))["detections"] == DETECTIONS
    refusal = daemon.http.post(url, content=b"GIF89a", headers=headers)
    assert refusal.status_code == 400
    assert "no picture" in refusal.json()["error"]


# Ways out


@pytest.mark.parametrize(("accept", "form"), [("image/png", "PNG"), ("image/*", "JPEG")])
def test_the_picture_with_boxes(daemon: DaemonProcess, accept: str, form: str) -> None:
    """For who accepts a picture."""
    headers = {"content-type": "image/png", "accept": accept}
    response = post(daemon, content=SCENE, headers=headers)
    drawn = picture(response)
    assert response.headers["content-type"] == f"image/{form.lower()}"
    assert (drawn.format, drawn.size) == (form, (320, 320))
    assert drawn.convert("RGB").getpixel((64, 50)) != (255, 0, 0)


def test_drawing_by_the_query(daemon: DaemonProcess) -> None:
    """The picture; or, for who wants JSON, both."""
    headers = {"content-type": "image/png"}
    url = "squares?draw=jpeg"
    assert picture(post(daemon, url, content=SCENE, headers=headers)).format == "JPEG"
    headers["accept"] = "application/json"
    found = ok(post(daemon, url, content=SCENE, headers=headers))
    assert Image.open(BytesIO(base64.b64decode(found["picture"]))).format == "JPEG"
    assert found["detections"] == DETECTIONS


def test_drawing_by_json(daemon: DaemonProcess) -> None:
    """The picture stands in the answer as base64."""
    body = {"image": base64.b64encode(SCENE).decode(), "draw": "png"}
    found = ok(post(daemon, json=body))
    assert Image.open(BytesIO(base64.b64decode(found["picture"]))).size == (320, 320)


def test_text_in_a_picture(daemon: DaemonProcess) -> None:
    """One model finds the lines of a name plate, another reads them; one request."""
    data = encoded(plate(), "JPEG", quality=90)
    found = ok(post(daemon, "plates", content=data, headers={"content-type": "image/jpeg"}))
    texts = [one["text"].replace(" ", "") for one in found["detections"]]
    assert texts == [text.replace(" ", "") for text in PLATE_TEXTS]
    assert found["model"] == "plates"


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        b"",
        JPEG[: len(JPEG) // 2],
        encoded(Image.new("RGB", (9, 9)), "GIF"),
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.4" + JPEG,
        random.Random(0).randbytes(8 * 1024 * 1024),
        png(50_000, 50_000),
        png(50_000, 50_000, bytes(50_000_000 // 8), depth=1, color=0),
        encoded(Image.new("F", (4, 4)), "TIFF"),
    ],
    ids=["empty", "cut", "gif", "svg", "pdf", "noise", "bomb", "real bomb", "floats"],
)
def test_bodies_that_are_no_pictures(daemon: DaemonProcess, data: bytes) -> None:
    """Each is told what is wrong with it, and the next client is served."""
    response = post(daemon, content=data, headers={"content-type": "image/jpeg"})
    assert error(response, 400)["param"] == "image"
    assert ok(post(daemon, files={"file": SCENE}))["detections"] == DETECTIONS


@pytest.mark.parametrize(
    ("how", "param"),
    [
        ({"content": SCENE, "headers": {"content-type": "text/plain"}}, "image"),
        ({"content": SCENE}, "image"),
        ({"json": {}}, "image"),
        ({"json": {"image": 5}}, "image"),
        ({"json": {"image": "!!"}}, "image"),
        ({"json": {"image": ""}}, "image"),
        ({"json": {"image": "data:text/html;base64,AAAA"}}, "image"),
        ({"json": {"image": "AAAA", "top_k": 0}}, "top_k"),
        ({"json": {"image": "AAAA", "threshold": 2}}, "threshold"),
        ({"json": {"image": "AAAA", "draw": "gif"}}, "draw"),
        ({"json": {"image": "AAAA", "model": "other"}}, "model"),
        ({"json": {"image": "AAAA", "prompt": "?"}}, "prompt"),
        ({"files": {"picture": SCENE}}, "file"),
        ({"files": [("file", SCENE), ("file", SCENE)]}, "file"),
        ({"files": {"file": SCENE}, "data": {"top_k": "many"}}, "top_k"),
    ],
)
def test_requests_that_are_wrong(daemon: DaemonProcess, how: dict[str, Any], param: str) -> None:
    """The field at fault is named."""
    assert error(post(daemon, **how), 400)["param"] == param


@pytest.mark.parametrize("query", ["top_k=x", "threshold=nan", "threshold=-1", "draw=bmp", "a=b"])
def test_queries_that_are_wrong(daemon: DaemonProcess, query: str) -> None:
    """Likewise."""
    how: dict[str, Any] = {"content": SCENE, "headers": {"content-type": "image/png"}}
    assert error(post(daemon, f"squares?{query}", **how), 400)["param"] == query.split("=")[0]


def test_more_bytes_than_allowed(daemon: DaemonProcess) -> None:
    """limits.max_body_mb counts for pictures too."""
    how: dict[str, Any] = {"content": bytes(9 << 20), "headers": {"content-type": "image/png"}}
    assert error(post(daemon, **how), 413)["code"] == "payload_too_large"


def test_models_that_see_nothing(daemon: DaemonProcess) -> None:
    """One that is not there, one that takes tensors, and one that generates."""
    how: dict[str, Any] = {"content": SCENE, "headers": {"content-type": "image/png"}}
    for model in ("nobody", daemon.default):
        assert error(post(daemon, model, **how), 404)["code"] == "model_not_found"
    assert error(post(daemon, "sums", **how), 400)["code"] == "invalid_request_error"


def test_a_route_elsewhere(daemon: DaemonProcess) -> None:
    """Pictures do not leave the appliance."""
    headers = {"content-type": "image/png", "x-edge-route": "cloud"}
    assert error(post(daemon, content=SCENE, headers=headers), 503)["param"] == "edge.route"


def test_a_picture_for_later(daemon: DaemonProcess) -> None:
    """Kept on disk before it is acknowledged; what was seen is fetched by the Response's id."""
    headers = {"content-type": "image/png", "prefer": "respond-async"}
    accepted = post(daemon, content=SCENE, headers=headers)
    assert accepted.status_code == 202, accepted.text
    assert accepted.headers["x-edge-route"] == "queue"
    url = daemon.url + accepted.headers["location"]

    def response() -> dict[str, Any]:
        return ok(daemon.http.get(url))

    poll(lambda: response()["status"] == "completed", "the sighting")
    assert response()["result"]["detections"] == DETECTIONS


def test_a_picture_sent_twice(daemon: DaemonProcess) -> None:
    """With one key it is looked at once, and another picture is refused with it."""
    headers = {"content-type": "image/png", "idempotency-key": "belt-17"}
    first, second = (post(daemon, content=SCENE, headers=headers) for _ in range(2))
    assert ok(first)["detections"] == DETECTIONS
    assert second.content == first.content
    assert second.headers["idempotent-replayed"] == "true"
    headers["content-type"] = "image/jpeg"
    error(post(daemon, content=JPEG, headers=headers), 422)


def test_hostile_pictures_beside_honest_ones(daemon: DaemonProcess) -> None:
    """Forty at once, every second one broken: each gets the answer that it deserves."""
    noise = random.Random(2).randbytes(2_000_000)

    def ask(number: int) -> int:
        data = SCENE if number % 2 else SCENE[:200] + noise
        return post(daemon, content=data, headers={"content-type": "image/png"}).status_code

    with ThreadPoolExecutor(8) as clients:
        statuses = list(clients.map(ask, range(40)))
    assert statuses == [400, 200] * 20


def test_the_daemon_decodes_nothing() -> None:
    """Its process has no decoder in it: pictures and models are the worker's."""
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, edge.daemon, edge.appliance\n"
            "print([m for m in ('PIL', 'onnxruntime', 'tokenizers') if m in sys.modules])",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
