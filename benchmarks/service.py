"""What a service costs, and what it keeps: latency, throughput, memory, kills, whole states.

    python benchmarks/service.py latency      one match over HTTP, in process, in a bare server
    python benchmarks/service.py throughput   32 clients, beside FastAPI over torch and FAISS
    python benchmarks/service.py memory       resident memory over 100,000 requests
    python benchmarks/service.py crashes      rounds of mixed load, each ended by kill -9
    python benchmarks/service.py states       8 clients match while one enrolls 10,000 items

Everything runs on this machine and ends by itself: latency and throughput within two minutes each,
memory within ten, crashes and states as long as their options say. Throughput needs FastAPI,
FAISS and python-multipart beside the extra serve. Servers are processes of their own; requests are
bytes made beforehand, so that the client costs as little as it can.
"""

import argparse
import asyncio
import importlib
import io
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

import likewise as lw
from likewise.data.images import decode_image

SIDE, ITEMS = 28, 10_000
HERE = Path(__file__).parent


def picture(rng):
    """A PNG of a few coarse patches."""
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4), dtype=np.uint8))
    content = io.BytesIO()
    coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(content, "PNG")
    return content.getvalue()


def numbers(content):
    return decode_image(content, "item", channels=1, image_size=SIDE)


def make_model(folder, count=ITEMS):
    """A small encoder, untrained, with items of 100 classes in a gallery beside the model."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    few = torch.stack([numbers(picture(rng)) for _ in range(500)])
    preprocess = lw.data.Preprocess((1, SIDE, SIDE), (float(few.mean()),), (float(few.std()),))
    model = lw.SimilarityModel(lw.encoders.ConvEncoder((1, SIDE, SIDE)), preprocess=preprocess)
    model.use_gallery(folder / "known")
    made = model.embed(few)
    spread = made[torch.from_numpy(rng.integers(0, 500, count))]
    spread = spread + 0.05 * torch.from_numpy(rng.normal(size=spread.shape).astype(np.float32))
    model.index.add(spread, labels=[f"class {at % 100}" for at in range(count)])
    aside = made + 0.05 * torch.from_numpy(rng.normal(size=made.shape).astype(np.float32))
    prints = torch.arange(500) + 10**9
    labels = torch.from_numpy(rng.integers(0, 100, 500))
    names = [f"class {at}" for at in range(100)]
    model.calibrate(lw.Embedded(aside, labels, names, prints, torch.arange(500)))
    model.save(folder / "model")
    model.index.close()
    return folder / "model"


class Server:
    """A server in a process of its own."""

    def __init__(self, *command, log=None):
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if log is None else log.open("ab"),
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        line = self.process.stdout.readline().decode().strip()
        if not line.startswith("http"):
            raise RuntimeError(f"the server did not start: {line!r}")
        self.port = int(line.rsplit(":", 1)[1])
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.1)

    def memory(self):
        return psutil.Process(self.process.pid).memory_info().rss

    def cpu(self):
        """Seconds of processor time so far."""
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(60)
        self.process.stdout.close()


def serve(model, *options, log=None):
    command = ["-m", "likewise", "serve", model, "--port", "0", "--device", "cpu", *options]
    return Server(*command, log=log)


def request(port, path, body, kind="application/json", method="POST", more=""):
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def upload(port, path, content, **fields):
    """A form with one picture, as curl sends it."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n"
    )
    body = b"".join(parts) + head + content + b"\r\n--b--\r\n"
    return request(port, path, body, "multipart/form-data; boundary=b")


class Line:
    """One connection that asks and waits."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def ask(self, sent):
        """Status and body of the answer."""
        self.socket.sendall(sent)
        data = self.rest
        while (at := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        length = length_in(data[:at])
        while len(data) < at + 4 + length:
            data += self._more()
        self.rest = data[at + 4 + length :]
        return int(data[9:12]), data[at + 4 : at + 4 + length]

    def tell(self, path, body, method="POST", more=""):
        content = json.dumps(body).encode()
        status, answer = self.ask(request(self.port, path, content, method=method, more=more))
        return status, json.loads(answer)

    def _more(self):
        more = self.socket.recv(1 << 16)
        if not more:
            raise ConnectionError("the server left")
        return more


def length_in(head):
    at = head.lower().find(b"content-length:")
    end = head.find(b"\r\n", at)
    return int(head[at + 15 : end if end >= 0 else len(head)])


class Asking(asyncio.Protocol):
    """A client that asks again as soon as it is answered."""

    def __init__(self, sent, seconds, done):
        self.sent, self.seconds, self.done = sent, seconds, done
        self.data, self.at = bytearray(), 0

    def connection_made(self, transport):
        self.transport = transport
        self.started = time.perf_counter()
        transport.write(self.sent[0])

    def data_received(self, data):
        self.data += data
        at = self.data.find(b"\r\n\r\n")
        if at < 0 or len(self.data) < at + 4 + length_in(bytes(self.data[:at])):
            return
        now = time.perf_counter()
        self.seconds.append((now, now - self.started, bytes(self.data[9:12]) == b"200"))
        self.data.clear()
        self.started = now
        self.at += 1
        if self.done():
            self.transport.close()
        else:
            self.transport.write(self.sent[self.at % len(self.sent)])


def together(port, sent, clients, seconds):
    """Requests per second, p50 and p99 of many clients, after two seconds that do not count."""

    async def run():
        loop = asyncio.get_running_loop()
        end = time.perf_counter() + 2 + seconds
        found = []
        lines = []
        for at in range(clients):
            mine = sent[at:] + sent[:at]
            transport, _ = await loop.create_connection(
                lambda mine=mine: Asking(mine, found, lambda: time.perf_counter() > end),
                "127.0.0.1",
                port,
            )
            lines.append(transport)
        while time.perf_counter() < end + 1 and not all(each.is_closing() for each in lines):
            await asyncio.sleep(0.05)
        return end, found

    try:
        import uvloop

        end, found = uvloop.run(run())
    except ImportError:
        end, found = asyncio.run(run())
    kept = [(took, good) for at, took, good in found if end - seconds <= at <= end]
    took = np.array([each for each, _ in kept])
    bad = sum(not good for _, good in kept)
    return len(kept) / seconds, *np.percentile(took * 1000, [50, 99]).tolist(), bad


BARE = """
import sys
import torch, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
import likewise as lw
from likewise.data.images import decode_image

torch.set_num_threads(1)
model = lw.load(sys.argv[1], read_only=True)

async def answer(request):
    item = decode_image(await request.body(), "item", channels=1, image_size=int(sys.argv[2]))
    return JSONResponse({"answers": [{"distance": float(model.match(item[None]).distances[0])}]})

app = Starlette(routes=[Route("/", answer, methods=["POST"])])
config = uvicorn.Config(app, port=0, access_log=False, log_level="error")
listening = config.bind_socket()
print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
uvicorn.Server(config).run(sockets=[listening])
"""


def latency(folder, rounds):
    """One match over HTTP, in turn with the same call in process and in the barest server."""
    model = lw.load(make_model(folder), read_only=True)
    torch.set_num_threads(1)
    (folder / "bare.py").write_text(BARE)
    server, bare = serve(folder / "model", "--read-only"), None
    rng = np.random.default_rng(1)
    pictures = [picture(rng) for _ in range(64)]
    try:
        bare = Server(folder / "bare.py", folder / "model", SIDE)
        lines = {"over HTTP": Line(server.port), "bare server": Line(bare.port)}
        taken = {name: [] for name in ("in process", *lines)}
        spent = 0.0
        for at in range(rounds + 100):
            if at == 100:
                used = server.cpu()
            content = pictures[at % len(pictures)]
            sent = {
                "over HTTP": upload(server.port, "/v1/match", content, k=1),
                "bare server": request(bare.port, "/", content, "image/png"),
            }
            t0, c0 = time.perf_counter(), time.process_time()
            decided = model.match(numbers(content)[None])
            own, its_cpu = time.perf_counter() - t0, time.process_time() - c0
            seconds = {"in process": own}
            for name, line in lines.items():
                t0 = time.perf_counter()
                status, answer = line.ask(sent[name])
                seconds[name] = time.perf_counter() - t0
                told = json.loads(answer)["answers"][0]
                if status != 200 or abs(told["distance"] - float(decided.distances[0])) > 1e-5:
                    raise AssertionError(answer)
            if at >= 100:
                spent += its_cpu
                for name, each in seconds.items():
                    taken[name].append(each)
        used = server.cpu() - used
    finally:
        server.end()
        if bare is not None:
            bare.end()
    found = {}
    for name, each in taken.items():
        p50, p99 = np.percentile(np.array(each) * 1000, [50, 99])
        found |= {f"{name} p50 ms": p50, f"{name} p99 ms": p99}
    return found | {
        "added p50 ms": found["over HTTP p50 ms"] - found["in process p50 ms"],
        "added by the bare server p50 ms": found["bare server p50 ms"] - found["in process p50 ms"],
        "in process, processor ms": 1000 * spent / rounds,
        "server, processor ms": 1000 * used / rounds,
    }


PLAIN = """
import io, sys
import faiss, numpy as np, torch, uvicorn
from fastapi import FastAPI, UploadFile
from PIL import Image
import likewise as lw

torch.set_num_threads(1)
faiss.omp_set_num_threads(1)
model = lw.load(sys.argv[1], read_only=True)
encoder, threshold = model.encoder.eval(), model.calibrations["nearest"].threshold
mean, std = model.preprocess.mean[0], model.preprocess.std[0]
vectors = torch.nn.functional.normalize(model.index.embeddings).numpy()
labels, names = model.index.labels.tolist(), model.class_names
index = faiss.IndexFlatIP(vectors.shape[1])
index.add(vectors)
app = FastAPI()

def answer(content):
    image = Image.open(io.BytesIO(content)).convert("L")
    pixels = torch.from_numpy(np.array(image)).float()[None, None] / 255
    with torch.inference_mode():
        embedding = torch.nn.functional.normalize(encoder((pixels - mean) / std))
    similarity, row = index.search(embedding.numpy(), 1)
    distance = 1 - float(similarity[0, 0])
    label = names[labels[row[0, 0]]] if distance <= threshold else None
    return {"label": label, "distance": distance, "threshold": threshold}

@app.post("/threads")
def in_threads(image: UploadFile):
    return answer(image.file.read())

@app.post("/loop")
async def in_the_loop(image: UploadFile):
    return answer(await image.read())

config = uvicorn.Config(app, port=0, access_log=False, log_level="error")
listening = config.bind_socket()
print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
uvicorn.Server(config).run(sockets=[listening])
"""


def throughput(folder, seconds, clients=32):
    """Requests per second of 32 clients: the service, and FastAPI over torch and FAISS."""
    for name in ("fastapi", "python_multipart", "faiss"):
        importlib.import_module(name)  # missed here, and not by a process that says nothing
    make_model(folder)
    (folder / "plain.py").write_text(PLAIN)
    rng = np.random.default_rng(1)
    pictures = [picture(rng) for _ in range(64)]
    ours = serve(folder / "model")
    plain = Server(folder / "plain.py", folder / "model")
    told = {}
    try:
        a, b = Line(ours.port), Line(plain.port)
        for content in pictures:  # equal answers
            mine = json.loads(a.ask(upload(ours.port, "/v1/match", content, k=1))[1])["answers"][0]
            its = json.loads(b.ask(upload(plain.port, "/threads", content))[1])
            if mine["label"] != its["label"] or abs(mine["distance"] - its["distance"]) > 1e-4:
                raise AssertionError((mine, its))
        ways = {
            "likewise": (ours, "/v1/match", {"k": 1}),
            "FastAPI in threads": (plain, "/threads", {}),
            "FastAPI in the loop": (plain, "/loop", {}),
        }
        found = {name: [] for name in ways}
        for _ in range(3):  # in turn
            for name, (server, path, fields) in ways.items():
                sent = [upload(server.port, path, content, **fields) for content in pictures]
                used, began = server.cpu(), time.perf_counter()
                rate, *rest = together(server.port, sent, clients, seconds)
                count = rate * (time.perf_counter() - began)  # about, with the warming up
                found[name].append((rate, *rest, 1000 * (server.cpu() - used) / count))
        for name, runs in found.items():
            rate, p50, p99, bad, used = np.median(np.array(runs), axis=0)
            told |= {f"{name}: per second": rate, f"{name}: p50 ms": p50, f"{name}: p99 ms": p99}
            told[f"{name}: processor ms"] = used
            if bad:
                told[f"{name}: refused"] = bad
    finally:
        ours.end()
        plain.end()
    best = max(told["FastAPI in threads: per second"], told["FastAPI in the loop: per second"])
    return {**told, "ratio to the better": told["likewise: per second"] / best}


def memory(folder, count, minutes=10):
    """Resident memory after a tenth of the requests, and after all, or after ten minutes."""
    make_model(folder)
    server = serve(folder / "model", "--keep", folder / "keep")
    rng = np.random.default_rng(1)
    sent = [upload(server.port, "/v1/match", picture(rng), k=3) for _ in range(64)]
    sent[0] = upload(server.port, "/v1/match", b"no picture")
    told, asked = [], 0
    try:
        end = time.monotonic() + 60 * minutes
        while asked < count and time.monotonic() < end:
            rate, *_ = together(server.port, sent, 16, 5)
            asked += int(rate * 7)
            told.append((asked, server.memory()))
    finally:
        server.end()
    tenth = next(bytes_ for at, bytes_ in told if at >= asked / 10)
    last = told[-1][1]
    return {
        "requests": asked,
        "MB after a tenth": tenth / 1e6,
        "MB after all": last / 1e6,
        "grown %": 100 * (last / tenth - 1),
    }


def mixed_load(port, stop, acknowledged, removed, faults, at):
    """Enroll, relabel, remove and match until the server is killed."""
    rng = np.random.default_rng(at)
    number = 0
    try:
        line = Line(port)
        while not stop.is_set():
            number += 1
            key = f"{at}-{number}-{random.getrandbits(48):x}"
            vector = rng.normal(size=8).tolist()
            body = {"items": [{"vector": vector, "label": f"class {at}", "metadata": {"key": key}}]}
            status, told = line.tell("/v1/items", body, more=f"Idempotency-Key: {key}\r\n")
            if status == 503:
                continue
            if status != 201:
                faults.append((status, told))
                return
            id_ = told["ids"][0]
            acknowledged[id_] = [key, f"class {at}"]
            if number % 3 == 0:
                acknowledged[id_][1] = None  # between the two: either is right
                status, told = line.tell(f"/v1/items/{id_}", {"label": "moved"}, "PATCH")
                if status == 200:
                    acknowledged[id_][1] = "moved"
            if number % 5 == 0:
                kept = acknowledged.pop(id_)
                status, told = line.tell(f"/v1/items/{id_}", {}, "DELETE")
                if status == 200:
                    removed[id_] = kept[0]
            status, told = line.tell("/v1/lookup", {"items": [{"vector": vector}], "k": 3})
            if status not in (200, 503):
                faults.append((status, told))
            near = [] if status != 200 else told["answers"][0]["neighbors"]
            if any("key" not in each["metadata"] and each["id"] != "0" for each in near):
                faults.append(("torn", told))
    except (ConnectionError, TimeoutError):
        return


def crashes(folder, rounds, seconds, clients=4):
    """Kill the service under load; what it acknowledged is there, once, as it was left."""
    model = lw.SimilarityModel(None)
    model.use_gallery(folder / "known")
    model.index.add(torch.ones(1, 8), labels=["first"])
    model.save(folder / "model")
    model.index.close()
    acknowledged, removed, faults = {}, {}, []
    lost = doubled = wrong = 0
    for round_ in range(rounds):
        server = serve(folder / "model", log=folder / "log")
        stop = threading.Event()
        threads = [
            threading.Thread(
                target=mixed_load, args=(server.port, stop, acknowledged, removed, faults, at)
            )
            for at in range(clients)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds + random.random())
        server.end(signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join()
        with lw.Gallery(folder / "known") as there:
            ids = [str(id_) for id_ in there.ids.tolist()]
            keys = [facts.get("key") for facts in there.metadata(there.ids)]
            names = [there.class_names[code] for code in there.labels.tolist()]
        held = dict(zip(ids, zip(keys, names, strict=True), strict=True))
        told = [key for key in keys if key is not None]
        doubled += len(told) - len(set(told))
        for id_, (key, name) in acknowledged.items():
            if id_ not in held or held[id_][0] != key:
                lost += 1
            elif name is not None and held[id_][1] != name:
                wrong += 1
        doubled += sum(id_ in held for id_ in removed)
        say(f"round {round_ + 1}: {len(acknowledged)} acknowledged, {len(ids)} there")
    return {
        "rounds": rounds,
        "acknowledged": len(acknowledged),
        "removed": len(removed),
        "lost": lost,
        "doubled": doubled,
        "with another label": wrong,
        "faults": faults[:3],
    }


def states(folder, count, clients=8):
    """Clients look up while one enrolls; every answer is of a whole state, and a later one."""
    model = lw.SimilarityModel(None)
    model.use_gallery(folder / "known")
    model.index.add(torch.tensor([[0.0, 1.0]]), labels=["0"], metadata=[{"number": "0"}])
    model.save(folder / "model")
    model.index.close()
    server = serve(folder / "model", log=folder / "log")
    done, faults, answers = threading.Event(), [], [0] * clients
    sent = request(server.port, "/v1/lookup", b'{"items": [{"vector": [1, 0]}], "k": 3}')

    def read(at):
        line, newest = Line(server.port), -1
        while not done.is_set():
            status, answer = line.ask(sent)
            if status == 503:
                continue
            near = json.loads(answer)["answers"][0]["neighbors"] if status == 200 else []
            labels = [int(each["label"]) for each in near]
            # Each new item is the nearest, so a whole state shows the three newest, in order.
            whole = (
                labels == list(range(labels[0], max(-1, labels[0] - 3), -1)) if labels else False
            )
            if not whole or any(each["label"] != each["metadata"]["number"] for each in near):
                faults.append(answer)
            elif labels[0] < newest:
                faults.append((newest, answer))
            else:
                newest, answers[at] = labels[0], answers[at] + 1

    threads = [threading.Thread(target=read, args=(at,)) for at in range(clients)]
    try:
        for thread in threads:
            thread.start()
        line = Line(server.port)
        started = time.perf_counter()
        for number in range(1, count + 1):
            name = str(number)
            angle = math.pi / 2 - math.pi / 4 * number / count  # each nearer than all before
            vector = [math.cos(angle), math.sin(angle)]
            item = {"vector": vector, "label": name, "metadata": {"number": name}}
            status, told = line.tell("/v1/items", {"items": [item]})
            if status != 201:
                faults.append(told)
                break
        took = time.perf_counter() - started
    finally:
        done.set()
        for thread in threads:
            thread.join()
        server.end()
    return {
        "enrolled": count,
        "seconds": took,
        "answers meanwhile": sum(answers),
        "faults": len(faults),
        "first faults": faults[:2],
    }


def say(line):
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", choices=["latency", "throughput", "memory", "crashes", "states"], nargs="+"
    )
    parser.add_argument("--rounds", type=int, default=50, help="kills")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load in each round")
    parser.add_argument("--calls", type=int, default=2000, help="of latency")
    parser.add_argument("--requests", type=int, default=100_000, help="of memory")
    parser.add_argument("--items", type=int, default=10_000, help="of states")
    asked = parser.parse_args()
    for part in asked.part:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder)
            found = {
                "latency": lambda where=where: latency(where, asked.calls),
                "throughput": lambda where=where: throughput(where, asked.seconds),
                "memory": lambda where=where: memory(where, asked.requests),
                "crashes": lambda where=where: crashes(where, asked.rounds, asked.seconds),
                "states": lambda where=where: states(where, asked.items),
            }[part]()
        say(f"{part}:")
        for name, value in found.items():
            say(f"  {name:28} {value:,.3f}" if isinstance(value, float) else f"  {name:28} {value}")


if __name__ == "__main__":
    main()
