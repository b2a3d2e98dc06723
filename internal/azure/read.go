// Reading files with secrets: errors give the position, never the content.

package azure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"

	"sigs.k8s.io/yaml"
)

// sizeLimit bounds a config file: real ones have 2 to 4 KiB.
const sizeLimit = 1 << 20

// readInto reads a JSON or YAML file into v. remedy is added to the error if there is no file.
func readInto(path, remedy string, v any) error {
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", err, remedy)
	}
	if err != nil {
		return err
	}
	return parse(data, v)
}

// readFile reads at most sizeLimit bytes.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, unreadable(err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, sizeLimit+1))
	if err != nil {
		return nil, unreadable(err)
	}
	if len(data) > sizeLimit {
		return nil, fmt.Errorf("the file is larger than %d bytes: is it the right one?", sizeLimit)
	}
	return data, nil
}

// unreadable removes the path, which the caller adds, from a file system error, and adds a general
// remedy.
func unreadable(err error) error {
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: let this process's user or group read it", err)
	}
	return err
}

// parse reads JSON, with or without a byte order mark, or YAML, which AAD Pod Identity accepted.
func parse(data []byte, v any) error {
	data = bytes.TrimSpace(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	if len(data) == 0 {
		return errors.New("the file is empty")
	}
	jsonErr := json.Unmarshal(data, v)
	if jsonErr == nil {
		return nil
	}
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](jsonErr); ok {
		return wrongType(mistyped)
	}
	yamlErr := yaml.Unmarshal(data, v)
	if yamlErr == nil {
		return nil
	}
	if mistyped, ok := errors.AsType[*json.UnmarshalTypeError](yamlErr); ok {
		return wrongType(mistyped)
	}
	if data[0] == '{' {
		return badJSON(data, jsonErr)
	}
	return badYAML(yamlErr)
}

// wrongType names the field, not its value.
func wrongType(err *json.UnmarshalTypeError) error {
	want := "text in quotes"
	if err.Type.Kind().String() == "bool" {
		want = "true or false, without quotes"
	}
	if err.Field == "" {
		return errors.New("malformed: the file must hold one object with fields such as tenantId")
	}
	return fmt.Errorf("malformed: field %s must be %s", err.Field, want)
}

// badJSON returns an error with the position of the syntax error.
func badJSON(data []byte, err error) error {
	broken, ok := errors.AsType[*json.SyntaxError](err)
	if !ok {
		return errors.New("malformed: neither JSON nor YAML")
	}
	before := data[:min(int(broken.Offset), len(data))]
	if len(before) == len(data) {
		return fmt.Errorf("malformed: the JSON ends too early, at line %d: was the file cut off?", 1+bytes.Count(before, []byte("\n")))
	}
	return fmt.Errorf("malformed: JSON syntax, line %d, column %d",
		1+bytes.Count(before, []byte("\n")), len(before)-1-bytes.LastIndexByte(before, '\n'))
}

// yamlLine matches the position in a YAML error. The rest of its text may quote the file.
var yamlLine = regexp.MustCompile(`\bline (\d+)`)

// badYAML returns an error with the position of the syntax error, if it is known.
func badYAML(err error) error {
	if line := yamlLine.FindStringSubmatch(err.Error()); line != nil {
		return fmt.Errorf("malformed: neither JSON nor YAML, line %s", line[1])
	}
	return errors.New("malformed: neither JSON nor YAML")
}
