package dataset

import (
	"bufio"
	"fmt"
	"image"
	_ "image/jpeg" // the formats of photographs
	_ "image/png"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Crop says how a photograph becomes a network's image: resized to Resize x Resize
// (bilinear, no aspect ratio kept), then the middle Size x Size of it.
type Crop struct{ Resize, Size int }

// maxPixels bounds a photograph: its header is read before its pixels.
const maxPixels = 1 << 27

// Photos reads a folder of JPEG and PNG files. Classes come from a table
// <folder>.tsv or <folder>/labels.tsv with a heading and the columns file and class,
// or, without one, from sub-folders, numbered in the order of their names.
func Photos(dir string, c Crop) (*Images, error) {
	if c.Size < 1 || c.Resize < c.Size || c.Resize > 1<<14 {
		return nil, fmt.Errorf("dataset: resize to %d, crop to %d: %w", c.Resize, c.Size, ErrData)
	}
	files, labels, err := labelled(filepath.Clean(dir))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("dataset: %s: no images: %w", dir, ErrData)
	}
	d := &Images{Name: filepath.Base(dir), C: 3, H: c.Size, W: c.Size, Labels: labels}
	d.Read = func(i int, dst []float32) error {
		p, err := decode(files[i])
		if err != nil {
			return fmt.Errorf("dataset: %s: %w", files[i], err)
		}
		p = p.resize(c.Resize, c.Resize)
		off := (c.Resize - c.Size) / 2
		for y := range c.Size {
			for x := range c.Size {
				at := 3 * ((y+off)*p.w + x + off)
				for k := range 3 {
					dst[(k*c.Size+y)*c.Size+x] = float32(p.rgb[at+k])
				}
			}
		}
		return nil
	}
	return d, nil
}

func labelled(dir string) (files []string, labels []int, err error) {
	for _, table := range []string{dir + ".tsv", filepath.Join(dir, "labels.tsv")} {
		if exists(table) {
			return readTable(dir, table)
		}
	}
	top, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("dataset: %w", err)
	}
	class := 0
	for _, e := range top {
		if !e.IsDir() {
			continue
		}
		in, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, nil, fmt.Errorf("dataset: %w", err)
		}
		for _, f := range in {
			switch strings.ToLower(filepath.Ext(f.Name())) {
			case ".jpg", ".jpeg", ".png":
				files, labels = append(files, filepath.Join(dir, e.Name(), f.Name())), append(labels, class)
			}
		}
		class++
	}
	return files, labels, nil
}

func readTable(dir, table string) (files []string, labels []int, err error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, nil, fmt.Errorf("dataset: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	var fileAt, classAt int
	for line := 1; sc.Scan(); line++ {
		cols := strings.Split(sc.Text(), "\t")
		if line == 1 {
			fileAt, classAt = slices.Index(cols, "file"), slices.Index(cols, "class")
			if fileAt < 0 || classAt < 0 {
				return nil, nil, fmt.Errorf("dataset: %s: want columns file and class, got %q: %w", table, cols, ErrData)
			}
			continue
		}
		if len(cols) <= max(fileAt, classAt) || !filepath.IsLocal(cols[fileAt]) {
			return nil, nil, fmt.Errorf("dataset: %s: line %d: %.80q: %w", table, line, sc.Text(), ErrData)
		}
		n, err := strconv.Atoi(cols[classAt])
		if err != nil || n < 0 {
			return nil, nil, fmt.Errorf("dataset: %s: line %d: class %.40q: %w", table, line, cols[classAt], ErrData)
		}
		files, labels = append(files, filepath.Join(dir, cols[fileAt])), append(labels, n)
	}
	return files, labels, sc.Err()
}

// pixels is an image of 8-bit RGB, interleaved.
type pixels struct {
	w, h int
	rgb  []uint8
}

func decode(file string) (*pixels, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cfg, _, err := image.DecodeConfig(f)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrData)
	}
	if cfg.Width < 1 || cfg.Height < 1 || cfg.Width > maxPixels/cfg.Height {
		return nil, fmt.Errorf("image of %d x %d: %w", cfg.Width, cfg.Height, ErrData)
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	m, _, err := image.Decode(f)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrData)
	}
	b := m.Bounds()
	p := &pixels{w: b.Dx(), h: b.Dy(), rgb: make([]uint8, 3*b.Dx()*b.Dy())}
	if y, ok := m.(*image.YCbCr); ok {
		p.fromYCbCr(y)
		return p, nil
	}
	for y := range p.h {
		for x := range p.w {
			r, g, bl, _ := m.At(b.Min.X+x, b.Min.Y+y).RGBA()
			at := 3 * (y*p.w + x)
			p.rgb[at], p.rgb[at+1], p.rgb[at+2] = uint8(r>>8), uint8(g>>8), uint8(bl>>8)
		}
	}
	return p, nil
}

// fromYCbCr interpolates subsampled colour as JPEG libraries do ("fancy
// upsampling": three parts of the near sample, one of the far), where the standard
// library repeats it: reference scores were measured with such a library.
func (p *pixels) fromYCbCr(m *image.YCbCr) {
	hs, vs := 1, 1
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio422:
		hs = 2
	case image.YCbCrSubsampleRatio420:
		hs, vs = 2, 2
	case image.YCbCrSubsampleRatio440:
		vs = 2
	case image.YCbCrSubsampleRatio411:
		hs = 4
	case image.YCbCrSubsampleRatio410:
		hs, vs = 4, 2
	}
	cw, ch := (p.w+hs-1)/hs, (p.h+vs-1)/vs
	// A line of colour, 3:1 between rows (4 parts; 1 part without subsampling).
	cb, cr := make([]int, cw), make([]int, cw)
	line := func(dst []int, src []uint8, y int) int {
		near := y / vs
		if vs != 2 {
			for x := range dst {
				dst[x] = int(src[near*m.CStride+x])
			}
			return 1
		}
		far := max(0, min(ch-1, near-1+2*(y&1)))
		for x := range dst {
			dst[x] = 3*int(src[near*m.CStride+x]) + int(src[far*m.CStride+x])
		}
		return 4
	}
	at := func(c []int, x, parts int) int {
		near := x / hs
		if hs != 2 {
			return (c[near] + parts/2) / parts
		}
		far := max(0, min(cw-1, near-1+2*(x&1)))
		round := parts * 2 // 8 and 7 of 16, or 1 and 2 of 4, by turns: no bias
		if parts == 4 {
			round -= x & 1
		} else {
			round -= 1 - x&1
		}
		return (3*c[near] + c[far] + round) / (4 * parts)
	}
	clip := func(v float64) uint8 { return uint8(max(0, min(255, int(v+0.5)))) }
	for y := range p.h {
		n := line(cb, m.Cb, y)
		line(cr, m.Cr, y)
		for x := range p.w {
			l := float64(m.Y[y*m.YStride+x])
			b, r := float64(at(cb, x, n)-128), float64(at(cr, x, n)-128)
			o := 3 * (y*p.w + x)
			p.rgb[o], p.rgb[o+1], p.rgb[o+2] = clip(l+1.402*r), clip(l-0.344136*b-0.714136*r), clip(l+1.772*b)
		}
	}
}

// resize is bilinear with the triangle widened to the scale where it shrinks (as
// Pillow does), rows first, rounded to 8 bits after each direction.
func (p *pixels) resize(w, h int) *pixels {
	mid := &pixels{w: w, h: p.h, rgb: make([]uint8, 3*w*p.h)}
	for x, t := range triangles(p.w, w) {
		for y := range p.h {
			for k := range 3 {
				sum := 0.5
				for i, f := range t.w {
					sum += f * float64(p.rgb[3*(y*p.w+t.at+i)+k])
				}
				mid.rgb[3*(y*w+x)+k] = uint8(max(0, min(255, sum)))
			}
		}
	}
	out := &pixels{w: w, h: h, rgb: make([]uint8, 3*w*h)}
	for y, t := range triangles(p.h, h) {
		for i := range 3 * w {
			sum := 0.5
			for j, f := range t.w {
				sum += f * float64(mid.rgb[3*w*(t.at+j)+i])
			}
			out.rgb[3*w*y+i] = uint8(max(0, min(255, sum)))
		}
	}
	return out
}

type triangle struct {
	at int
	w  []float64
}

// triangles are the weights of n input samples for each of m output ones.
func triangles(n, m int) []triangle {
	scale := float64(n) / float64(m)
	reach := max(1, scale)
	out := make([]triangle, m)
	for i := range out {
		centre := (float64(i) + 0.5) * scale
		lo, hi := max(0, int(centre-reach+0.5)), min(n, int(centre+reach+0.5))
		t := triangle{at: lo}
		sum := 0.0
		for j := lo; j < hi; j++ {
			d := (float64(j) + 0.5 - centre) / reach
			f := max(0, 1-max(d, -d))
			t.w = append(t.w, f)
			sum += f
		}
		for j := range t.w {
			t.w[j] /= sum
		}
		out[i] = t
	}
	return out
}
