"""Modbus units by pymodbus, a stack that is not ours: `units.py rtu PORT` or `units.py tcp PORT`.

Units 1 and 2 are well. On a serial line unit 3 answers long after the time that it has, unit 4 with a wrong checksum,
unit 5 as unit 6, and unit 9 is not there. Over TCP unit 5 answers as unit 6, and unit 9 is not there.
"""

import asyncio
import logging
import os
import sys

from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

# Seconds.
LATE = 0.6
# A unit that is not there. pymodbus would answer in its place.
NOBODY = 9


def device(number):
    coils = [SimData(0, values=[True, False, True] + [False] * 13, datatype=DataType.BITS)]
    discrete = [SimData(0, values=[False, True] + [False] * 14, datatype=DataType.BITS)]
    holding = [
        SimData(0, values=[number, 0, 0, 0], datatype=DataType.REGISTERS),
        SimData(10, values=123.5, datatype=DataType.FLOAT32),
        SimData(12, values=[0] * 20, datatype=DataType.REGISTERS),
    ]
    inputs = [SimData(0, values=[215, 0xFFFF, 0x0C0D, 0x0A0B], datatype=DataType.REGISTERS)]
    return SimDevice(number, (coils, discrete, holding, inputs))


async def main(kind, port):
    # It complains of units that are not there, and is right.
    logging.disable()
    def over_serial(sending, packet):
        if not sending or not packet:
            return packet
        unit = packet[0]
        if unit == NOBODY:
            return b""
        if unit == 3:
            asyncio.get_running_loop().call_later(LATE, os.write, late, bytes(packet))
            return b""
        if unit == 4:
            return packet[:-1] + bytes([packet[-1] ^ 0xFF])
        if unit == 5:
            return resealed(6, packet)
        return packet

    def over_tcp(sending, packet):
        if not sending or len(packet) < 7:
            return packet
        unit = packet[6]
        if unit == NOBODY:
            return b""
        return packet[:6] + bytes([6]) + packet[7:] if unit == 5 else packet

    devices = [device(number) for number in (1, 2, 3, 4, 5)]
    if kind == "rtu":
        late = os.open(port, os.O_WRONLY | os.O_NOCTTY)
        server = ModbusSerialServer(
            devices, port=port, baudrate=19200, framer=FramerType.RTU, trace_packet=over_serial
        )
    else:
        server = ModbusTcpServer(devices, address=("127.0.0.1", int(port)), trace_packet=over_tcp)
    await server.serve_forever(background=True)
    print("ready", flush=True)
    # It ends with the test, which holds the other end.
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)


def resealed(unit, packet):
    content = bytes([unit]) + packet[1:-2]
    crc = 0xFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return content + crc.to_bytes(2, "little")


asyncio.run(main(*sys.argv[1:]))
