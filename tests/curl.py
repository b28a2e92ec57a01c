"""As much of curl as the documents use: not every machine has it."""

import argparse
import urllib.request

parser = argparse.ArgumentParser()
parser.add_argument("-X", dest="method", default="GET")
parser.add_argument("url")
given = parser.parse_args()
with urllib.request.urlopen(urllib.request.Request(given.url, method=given.method)) as answer:
    print(answer.read().decode())
