// Command image builds a container image without a container engine: static programs on an empty
// base.
//
//	go run ./hack/image -o bin/images/mic.tar -ref docker.io/podid/mic:dev bin/mic=/mic
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/podid-io/podid/internal/sandbox/image"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("image", flag.ContinueOnError)
	out := flags.String("o", "", "the archive to write")
	ref := flags.String("ref", "", "the image's full name with tag, for example docker.io/podid/mic:dev")
	user := flags.String("user", "", "uid:gid to run as (default a user without any rights)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *out == "" || *ref == "" || flags.NArg() == 0 {
		return errors.New("usage: image -o ARCHIVE -ref NAME:TAG PROGRAM=/PATH [FILE=/PATH]")
	}
	spec := image.Spec{Ref: *ref, User: *user}
	for _, arg := range flags.Args() {
		from, to, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not FILE=/PATH", arg)
		}
		spec.Files = append(spec.Files, image.File{From: from, To: to})
	}
	return image.Write(spec, *out)
}
