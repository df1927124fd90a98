"""monitor.py @alice REGEX COUNT: prints so many notifications as atsdk decrypts them, one JSON a line."""

import json
import sys
import threading
from queue import Queue

from common import done, sign_in
from at_client.connections.notification.atevents import AtEventType

queue = Queue()
client = sign_in(sys.argv[1], queue)
# It reads until the connection ends, so it needs a thread of its own.
threading.Thread(target=client.start_monitor, args=(sys.argv[2],), daemon=True).start()
left = int(sys.argv[3])
while left:
    event = queue.get()
    if event.event_type == AtEventType.UPDATE_NOTIFICATION:
        client.handle_event(queue, event)
    elif event.event_type == AtEventType.DECRYPTED_UPDATE_NOTIFICATION:
        data = event.event_data
        print(json.dumps({k: data[k] for k in ("from", "key", "decryptedValue")}), flush=True)
        left -= 1
    elif event.event_type == AtEventType.MONITOR_EXCEPTION:
        print(json.dumps(event.event_data), file=sys.stderr)
        sys.exit(1)
done()
