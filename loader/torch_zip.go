package loader

import (
	"fmt"
	"hash/crc32"
	"strings"
)

// zipEntry is a stored (never deflated: no bombs) member of a zip archive.
type zipEntry struct {
	off, size int64
	crc       uint32
}

const (
	maxZipEntries = 1 << 16
	maxZipDir     = 16 << 20
)

// readZip reads the directory of a zip archive (PKWARE APPNOTE 4.3, with zip64).
// archive/zip would do, but for the several hundred bytes that it keeps for each
// of the 46 that a hostile directory spends on an entry.
func readZip(src *source) (map[string]zipEntry, error) {
	n := min(src.size, 22+20+65535)
	tail, err := src.part(src.size-n, n)
	if err != nil {
		return nil, err
	}
	i := strings.LastIndex(string(tail), "PK\x05\x06")
	if i < 0 || len(tail)-i < 22 {
		return nil, fault(ErrFormat, "", -1, "zip archive without an end record", nil, nil)
	}
	end := tail[i:]
	count, size, off := uint64(le16(end[10:])), uint64(le32(end[12:])), uint64(le32(end[16:]))
	if i >= 20 && string(tail[i-20:i-16]) == "PK\x06\x07" {
		at := le64(tail[i-12:])
		if at > uint64(src.size) {
			return nil, fault(ErrTruncated, "", -1, "zip64 end record", fmt.Sprint("inside ", src.size, " bytes"), at)
		}
		b, err := src.part(int64(at), 56)
		if err != nil {
			return nil, err
		}
		if string(b[:4]) != "PK\x06\x06" {
			return nil, fault(ErrFormat, "", int64(at), "zip64 end record", "its signature", nil)
		}
		count, size, off = le64(b[32:]), le64(b[40:]), le64(b[48:])
	}
	switch {
	case count > maxZipEntries || size > maxZipDir:
		return nil, fault(ErrLimit, "", -1, "zip directory", fmt.Sprint("at most ", maxZipEntries, " entries in ", maxZipDir, " bytes"), fmt.Sprint(count, " in ", size))
	case off > uint64(src.size) || size > uint64(src.size)-off:
		return nil, fault(ErrTruncated, "", -1, "zip directory", fmt.Sprint("inside ", src.size, " bytes"), fmt.Sprint(size, " at ", off))
	}
	dir, err := src.part(int64(off), int64(size))
	if err != nil {
		return nil, err
	}
	out := make(map[string]zipEntry, count)
	total := int64(0)
	for range count {
		name, e, rest, err := zipHeader(src, dir, int64(off)+int64(size)-int64(len(dir)))
		if err != nil {
			return nil, err
		}
		if _, dup := out[name]; dup {
			return nil, fault(ErrFormat, name, -1, "zip entry occurs twice", nil, nil)
		}
		out[name] = e
		dir = rest
		if total += e.size; total > src.size { // or a thousand entries could share the same bytes
			return nil, fault(ErrFormat, name, -1, "zip entries overlap", fmt.Sprint("at most ", src.size, " bytes in all"), total)
		}
	}
	return out, nil
}

// zipHeader reads one entry of the directory, and where its data begin.
func zipHeader(src *source, dir []byte, at int64) (name string, e zipEntry, rest []byte, err error) {
	if len(dir) < 46 || string(dir[:4]) != "PK\x01\x02" {
		return "", e, nil, fault(ErrFormat, "", at, "zip directory entry", "its signature and 46 bytes", nil)
	}
	method, crc := le16(dir[10:]), le32(dir[16:])
	packed, size := uint64(le32(dir[20:])), uint64(le32(dir[24:]))
	nl, el, cl := int(le16(dir[28:])), int(le16(dir[30:])), int(le16(dir[32:]))
	off := uint64(le32(dir[42:]))
	if len(dir) < 46+nl+el+cl {
		return "", e, nil, fault(ErrTruncated, "", at, "zip directory entry", 46+nl+el+cl, len(dir))
	}
	name = string(dir[46 : 46+nl])
	// The zip64 field holds, in this order, those of the numbers that are all ones.
	for x := dir[46+nl : 46+nl+el]; len(x) >= 4; {
		id, n := le16(x), int(le16(x[2:]))
		if n > len(x)-4 {
			break
		}
		if v := x[4 : 4+n]; id == 1 {
			for _, p := range []*uint64{&size, &packed, &off} {
				if *p == 0xffffffff && len(v) >= 8 {
					*p, v = le64(v), v[8:]
				}
			}
		}
		x = x[4+n:]
	}
	if method != 0 || packed != size || le16(dir[8:])&1 != 0 {
		return "", e, nil, fault(ErrUnsupported, name, at, "zip entry", "stored, neither compressed nor encrypted", fmt.Sprint("method ", method))
	}
	if off > uint64(src.size) {
		return "", e, nil, fault(ErrTruncated, name, at, "zip entry", fmt.Sprint("inside ", src.size, " bytes"), off)
	}
	local, err := src.part(int64(off), 30)
	if err != nil {
		return "", e, nil, err
	}
	if string(local[:4]) != "PK\x03\x04" {
		return "", e, nil, fault(ErrFormat, name, int64(off), "zip local header", "its signature", nil)
	}
	data := off + 30 + uint64(le16(local[26:])) + uint64(le16(local[28:]))
	if data > uint64(src.size) || size > uint64(src.size)-data {
		return "", e, nil, fault(ErrTruncated, name, int64(off), "zip entry", fmt.Sprint("inside ", src.size, " bytes"), fmt.Sprint(size, " at ", data))
	}
	return name, zipEntry{int64(data), int64(size), crc}, dir[46+nl+el+cl:], nil
}

// part reads n bytes at off.
func (s *source) part(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	return b, s.readAt(b, off)
}

// check compares an entry's bytes with its checksum; writers may leave it 0.
func (e zipEntry) check(src *source, name string) error {
	if e.crc == 0 {
		return nil
	}
	h := crc32.NewIEEE()
	for at := int64(0); at < e.size; at += chunk {
		err := src.view(e.off+at, int(min(chunk, e.size-at)), func(b []byte) error {
			h.Write(b)
			return nil
		})
		if err != nil {
			return err
		}
	}
	if h.Sum32() != e.crc {
		return fault(ErrFormat, name, e.off, "checksum", fmt.Sprintf("%#08x", e.crc), fmt.Sprintf("%#08x", h.Sum32()))
	}
	return nil
}
