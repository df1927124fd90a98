"""put.py @alice @bob VALUE: writes a public, a self and a shared record, and reads all three back."""

import sys

from common import AtSign, done, sign_in
from at_client.common.keys import PublicKey, SelfKey, SharedKey

me, other, value = AtSign(sys.argv[1]), AtSign(sys.argv[2]), sys.argv[3]
client = sign_in(sys.argv[1])
for key in (PublicKey("location", me), SelfKey("note", me), SharedKey("phone", me, other)):
    key.set_namespace("sdk")
    client.put(key, value)
    read = client.get(key)
    assert read == value, f"{key} reads {read!r}"
done()
