package loader

import (
	"archive/zip"
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// TestTorchPruned: a state dict of torch.nn.utils.prune gives orig times mask
// (testdata/make_torch.py), from the zip and from safetensors.
func TestTorchPruned(t *testing.T) {
	got, closeGot, err := OpenTensors("testdata/pruned.pt")
	require.NoError(t, err)
	defer closeGot()
	want, closeWant, err := OpenTensors("testdata/pruned.safetensors")
	require.NoError(t, err)
	defer closeWant()
	require.Len(t, got, len(want))
	byName := map[string]*model.Weight{}
	for _, w := range got {
		byName[w.Name] = w
	}
	for _, w := range want {
		g := byName[w.Name]
		require.NotNil(t, g, w.Name)
		require.Equal(t, w.Shape, g.Shape)
		require.Equal(t, read(t, w.Data), read(t, g.Data), w.Name)
		m, err := sparse.Load(g.Data)
		require.NoError(t, err)
		require.Equal(t, read(t, w.Data), read(t, m), w.Name)
	}
}

// torchZip packs a pickle and storages as torch.save does.
func torchZip(pkl string, storages map[string][]byte) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	put := func(name string, data []byte) {
		f, err := w.CreateRaw(&zip.FileHeader{Name: name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(data), CompressedSize64: uint64(len(data)), UncompressedSize64: uint64(len(data))})
		if err == nil {
			_, err = f.Write(data)
		}
		if err != nil {
			panic(err)
		}
	}
	put("m/data.pkl", []byte(pkl))
	put("m/byteorder", []byte("little"))
	for k, v := range storages {
		put("m/data/"+k, v)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// pyTensorOp is the pickle of one f32 tensor: numel and offset in numbers.
func pyTensorOp(key string, numel, off, rows, cols, stride byte) string {
	return "ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x00" + key + "X\x03\x00\x00\x00cpuK" + string([]byte{numel}) +
		"tQK" + string([]byte{off}) + "K" + string([]byte{rows}) + "K" + string([]byte{cols}) + "\x86K" + string([]byte{stride}) + "K\x01\x86\x89)tR"
}

func pyDictOp(items string) string { return "\x80\x02}(" + items + "u." }

func torchCases() []hostile {
	key := "X\x01\x00\x00\x00a"
	data := map[string][]byte{"0": make([]byte, 16)}
	c := func(no int, name string, want error, pkl string) hostile {
		return hostile{no: no, name: "torch: " + name, want: want, file: torchZip(pkl, data)}
	}
	good := pyDictOp(key + pyTensorOp("0", 4, 0, 2, 2, 2))
	flip := torchZip(good, data)
	flip[bytes.Index(flip, []byte("storage"))] ^= 1
	// Two directory entries made to point at one local header.
	shared := torchZip(good, map[string][]byte{"0": make([]byte, 3000), "1": make([]byte, 3000)})
	dirAt := bytes.Index(shared, []byte("PK\x01\x02"))
	var last []byte // the offset of the first large entry
	for at := dirAt; bytes.HasPrefix(shared[at:], []byte("PK\x01\x02")); at += 46 + int(le16(shared[at+28:])) + int(le16(shared[at+30:])) {
		if le32(shared[at+24:]) != 3000 {
			copy(shared[at+20:], le(uint32(3000)))
			copy(shared[at+24:], le(uint32(3000)))
			if last != nil {
				copy(shared[at+42:], last)
			}
		}
		last = shared[at+42 : at+46]
	}
	deflated := func() []byte {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		f, _ := w.Create("m/data.pkl") // Create deflates
		f.Write(bytes.Repeat([]byte{0}, 1<<20))
		w.Close()
		return b.Bytes()
	}()
	cut := torchZip(good, data)
	return []hostile{
		c(33, "os.system", ErrUnsupported, "\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."),
		c(33, "builtins.eval", ErrUnsupported, "\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R."),
		c(33, "torch.load by another name", ErrUnsupported, "\x80\x02ctorch\nload\n."),
		c(33, "INST", ErrUnsupported, "\x80\x02(ios\nsystem\n."),
		c(33, "OBJ", ErrUnsupported, "\x80\x02(ccollections\nOrderedDict\no."),
		c(33, "NEWOBJ", ErrUnsupported, "\x80\x02ccollections\nOrderedDict\n)\x81."),
		c(33, "extension registry", ErrUnsupported, "\x80\x02\x82\x01."),
		c(33, "calling what is no function", ErrUnsupported, "\x80\x02K\x01)R."),
		c(33, "BUILD on a tensor", ErrUnsupported, "\x80\x02"+pyTensorOp("0", 4, 0, 2, 2, 2)+"}b."),
		c(33, "no STOP", ErrTruncated, "\x80\x02}"),
		c(33, "empty stack", ErrFormat, "\x80\x02."),
		c(33, "mark as a value", ErrFormat, "\x80\x02(."),
		c(33, "memo that is not there", ErrFormat, "\x80\x02h\x05."),
		c(33, "string beyond the end", ErrTruncated, "\x80\x02X\xff\xff\xff\x00a."),
		c(33, "two million objects", ErrLimit, "\x80\x02"+strings.Repeat(")", 2<<20)+"."),
		c(33, "not a dict", ErrUnsupported, "\x80\x02K\x01."),
		c(33, "key twice", ErrFormat, pyDictOp(key+"K\x01"+key+"K\x02")),
		c(33, "storage absent", ErrFormat, pyDictOp(key+pyTensorOp("9", 4, 0, 2, 2, 2))),
		c(33, "storage of another size", ErrShape, pyDictOp(key+pyTensorOp("0", 5, 0, 2, 2, 2))),
		c(33, "tensor beyond its storage", ErrShape, pyDictOp(key+pyTensorOp("0", 4, 1, 2, 2, 2))),
		c(33, "shape beyond the storage", ErrShape, pyDictOp(key+pyTensorOp("0", 4, 0, 200, 2, 2))),
		c(33, "transposed", ErrUnsupported, pyDictOp(key+pyTensorOp("0", 4, 0, 2, 2, 1))),
		{no: 50, name: "torch: checksum mismatch", want: ErrFormat, file: flip},
		{no: 50, name: "torch: entries that share bytes", want: ErrFormat, file: shared},
		{no: 50, name: "torch: deflated zip", want: ErrUnsupported, file: deflated},
		{no: 50, name: "torch: cut zip", want: ErrFormat, file: cut[:len(cut)-30]},
		{no: 50, name: "torch: zip of something else", want: ErrUnsupported, file: func() []byte {
			var b bytes.Buffer
			w := zip.NewWriter(&b)
			f, _ := w.CreateHeader(&zip.FileHeader{Name: "a.txt", Method: zip.Store})
			fmt.Fprint(f, "text")
			w.Close()
			return b.Bytes()
		}()},
	}
}

// TestTorchGood: the archive that the cases above break opens.
func TestTorchGood(t *testing.T) {
	path := write(t, "m.pt", torchZip(pyDictOp("X\x01\x00\x00\x00a"+pyTensorOp("0", 4, 0, 2, 2, 2)), map[string][]byte{"0": f32s(4, func(i int) float32 { return float32(i) })}))
	ws, closeFiles, err := OpenTensors(path)
	require.NoError(t, err)
	defer closeFiles()
	require.Equal(t, []float32{0, 1, 2, 3}, read(t, ws[0].Data))
}

func FuzzTorch(f *testing.F) {
	b, err := os.ReadFile("testdata/pruned.pt")
	require.NoError(f, err)
	f.Add(b, false)
	for _, h := range torchCases() {
		if len(h.file) < 1<<16 {
			f.Add(h.file, false)
		}
	}
	f.Add([]byte(pyDictOp("X\x01\x00\x00\x00a"+pyTensorOp("0", 4, 0, 2, 2, 2))), true)
	f.Add([]byte(pyDictOp("X\x01\x00\x00\x00a"+pyTensorOp("0", 4, 1, 2, 2, 2))), true)
	f.Fuzz(func(t *testing.T, b []byte, pickleOnly bool) {
		if pickleOnly { // past the archive's checksums
			b = torchZip(string(b), map[string][]byte{"0": make([]byte, 16)})
		}
		if ws, closeFiles, err := OpenTensors(fuzzFile(t, t.TempDir(), "m", b)); err == nil {
			readAll(t, ws)
			closeFiles()
		}
	})
}
