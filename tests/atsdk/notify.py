"""notify.py @alice @bob VALUE: sends a notification and prints its id."""

import sys

from common import AtSign, done, sign_in
from at_client.common.keys import SharedKey

me, other = AtSign(sys.argv[1]), AtSign(sys.argv[2])
client = sign_in(sys.argv[1])
key = SharedKey("temp", me, other)
key.set_namespace("sdk")
print(client.notify(key, sys.argv[3]))
done()
