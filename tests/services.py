"""A service in a thread of the tests' process."""

import threading
import time

from likewise.service import running


class Running:
    """Answers while the block lasts, at `port`."""

    def __init__(self, application):
        self.application = application
        listening = running.listen("127.0.0.1", 0, has_keys=application.keys is not None)
        self.port = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.server = running.server_of(application, loop="asyncio")
        self.thread = threading.Thread(target=self.server.run, args=([listening],))

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(30)
