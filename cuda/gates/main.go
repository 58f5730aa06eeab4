// Command gates reads what ptxas made of the kernels - instructions, registers,
// shared memory - and holds it against thresholds: a kernel that silently lost its
// sparse tensor-core instruction, spills, or wastes issue slots fails the build, with
// no GPU at hand. It writes gates.md and gates.json. Nothing it prints is a speed.
//
//	go run ./cuda/gates -build cuda/build -tools .cuda/lib/python3.11/site-packages/nvidia/cu13/bin
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

func main() {
	build := flag.String("build", "cuda/build", "folder with the cubins")
	tools := flag.String("tools", "", "folder with cuobjdump; empty: from PATH")
	out := flag.String("out", "cuda/build", "folder for gates.md and gates.json")
	flag.Parse()
	if err := run(*build, *tools, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gates:", err)
		os.Exit(1)
	}
}

var errFailed = errors.New("thresholds failed")

func run(build, tools, out string) error {
	rep := &report{}
	cubins, err := filepath.Glob(filepath.Join(build, "*.cubin"))
	if err != nil {
		return err
	}
	if len(cubins) == 0 {
		return fmt.Errorf("%s: no cubins (make cuda-cubins)", build)
	}
	sort.Strings(cubins)
	conflicts, err := readConflicts(filepath.Join(build, "conflicts.json"))
	if err != nil {
		return err
	}
	for _, name := range cubins {
		rows, err := measureCubin(name, tools, conflicts)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if strings.HasPrefix(filepath.Base(name), "kernels_") {
			rep.Kernels = append(rep.Kernels, rows...)
		} else {
			rep.Rivals = append(rep.Rivals, rows...)
		}
	}
	rep.Bytes = measureBytes()
	rep.judge()
	if err := rep.write(out); err != nil {
		return err
	}
	fmt.Printf("gates: %d kernels x architectures, %d checks, %d failed; %s\n",
		len(rep.Kernels), rep.Checks, len(rep.Failures), filepath.Join(out, "gates.md"))
	for _, f := range rep.Failures {
		fmt.Println("FAIL", f)
	}
	if len(rep.Failures) > 0 {
		return errFailed
	}
	return nil
}

var cubinName = regexp.MustCompile(`\.sm_([0-9]+[a-z]?)\.cubin$`)

// measureCubin disassembles one cubin and measures each of its kernels.
func measureCubin(name, tools string, conflicts map[string]int) ([]kernel, error) {
	m := cubinName.FindStringSubmatch(name)
	if m == nil {
		return nil, fmt.Errorf("no architecture in the name")
	}
	usage, err := tool(tools, "-res-usage", name)
	if err != nil {
		return nil, err
	}
	sass, err := tool(tools, "-sass", name)
	if err != nil {
		return nil, err
	}
	res := parseUsage(usage)
	var rows []kernel
	for _, f := range parseSASS(sass) {
		k := measure(f, res[f.name], m[1])
		k.Conflicts = conflicts[k.Name]
		rows = append(rows, k)
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i].Name < rows[j].Name })
	return rows, nil
}

func tool(dir string, args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(dir, "cuobjdump"), args...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH")) // cuobjdump calls nvdisasm
	b, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cuobjdump %s: %w", args[0], err)
	}
	return string(b), nil
}
