"""A server that says half of an answer and dies: `engines.child` starts it."""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Half(BaseHTTPRequestHandler):
    def do_POST(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"token": 1}\n')
        os._exit(3)


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", 0), Half)
    sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{server.server_port}"}) + "\n")
    sys.stdout.flush()
    server.serve_forever()
