"""delete.py @alice @bob: deletes what put.py wrote, and prints which of its keys are left."""

import sys

from common import AtSign, done, sign_in
from at_client.common.keys import PublicKey, SelfKey, SharedKey

me, other = AtSign(sys.argv[1]), AtSign(sys.argv[2])
client = sign_in(sys.argv[1])
for key in (PublicKey("location", me), SelfKey("note", me), SharedKey("phone", me, other)):
    key.set_namespace("sdk")
    client.delete(key)
print([str(key) for key in client.get_at_keys(r"\.sdk@", False)])
done()
