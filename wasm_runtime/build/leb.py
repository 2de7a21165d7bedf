"""LEB128, the variable-length numbers of the WebAssembly binary format (chapter 5.2.2)."""


def read_uleb(data: bytes, position: int) -> tuple[int, int]:
    """Decode the unsigned number at `position`; -> (value, position after it). ValueError beyond 64 bits."""
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = byte & 0x7F, 7
    while shift < 70:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position + 1
        shift += 7
    raise ValueError(f"the number before byte {position} has more than 64 bits")


def read_sleb(data: bytes, position: int) -> tuple[int, int]:
    """Decode the signed number at `position`; -> (value, position after it)."""
    value, behind = read_uleb(data, position)
    bits = 7 * (behind - position)
    return value - (1 << bits if value >> (bits - 1) else 0), behind


def uleb(value: int) -> bytes:
    """Return the unsigned encoding of `value`."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sleb(value: int) -> bytes:
    """Return the signed encoding of `value`."""
    out = bytearray()
    while True:
        byte = value & 0x7F
        value >>= 7
        if (value == 0 and not byte & 0x40) or (value == -1 and byte & 0x40):
            out.append(byte)
            return bytes(out)
        out.append(byte | 0x80)


def signed32(value: int) -> int:
    """Return the signed number that has the lowest 32 bits of `value`."""
    return (value & 0xFFFFFFFF) - (1 << 32 if value & 0x80000000 else 0)
