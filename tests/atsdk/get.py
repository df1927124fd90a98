"""get.py @alice @bob: prints what @bob published and what he shared with @alice, and her own record."""

import sys

from common import AtSign, done, sign_in
from at_client.common.keys import PublicKey, SelfKey, SharedKey

me, other = AtSign(sys.argv[1]), AtSign(sys.argv[2])
client = sign_in(sys.argv[1])
for key in (PublicKey("location", other), SharedKey("phone", other, me), SelfKey("note", me)):
    key.set_namespace("tool")
    print(client.get(key))
done()
