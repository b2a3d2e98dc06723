// What describes a release: its notes, digests, provenance and checksums.

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	provenance "github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// summary is the file release.json: what push reads, and what a person compares.
type summary struct {
	release
	Subjects []subject `json:"subjects"`
}

const (
	summaryFile   = "release.json"
	notesFile     = "notes.md"
	checksumsFile = "checksums.txt"
	statementFile = "provenance.intoto.json"
)

// notes writes the part of the changelog that belongs to this version.
func (b builder) notes() error {
	content, err := os.ReadFile(filepath.Join(b.source, "CHANGELOG.md"))
	if err != nil {
		return fmt.Errorf("write the release notes: %w", err)
	}
	heading := "Unreleased"
	if b.Tagged {
		heading = b.number()
	}
	text, err := section(string(content), heading)
	if err != nil {
		return fmt.Errorf("write the release notes: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.out, notesFile), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write the release notes: %w", err)
	}
	return nil
}

// section returns what follows the heading "## NAME" or "## NAME - DATE".
func section(changelog, name string) (string, error) {
	var out strings.Builder
	inside := false
	for line := range strings.Lines(changelog) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			first, _, _ := strings.Cut(strings.TrimSpace(heading), " ")
			inside = strings.Trim(first, "[]") == name
			continue
		}
		if inside {
			out.WriteString(line)
		}
	}
	text := strings.TrimSpace(out.String())
	if text == "" {
		return "", fmt.Errorf("CHANGELOG.md has no text below a heading \"## %s\": name the version there before you tag it", name)
	}
	return text + "\n", nil
}

// list writes the summary, which names the digest of each image and of the chart.
func (b builder) list(subjects []subject) error {
	content, err := json.MarshalIndent(summary{b.release, subjects}, "", "  ")
	if err != nil {
		return fmt.Errorf("write the summary: %w", err)
	}
	if err := os.WriteFile(b.asset(summaryFile), append(content, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the summary: %w", err)
	}
	for _, s := range subjects {
		b.say("%s:%s@%s", s.Name, s.Tag, s.Digest)
	}
	return nil
}

// digests returns the SHA-256 of every file of the release so far, sorted by name.
func (b builder) digests() ([]subject, error) {
	var all []subject
	root := filepath.Join(b.out, assetsDir)
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		digest, err := fileDigest(file)
		all = append(all, subject{Name: filepath.Base(file), Digest: digest})
		return err
	})
	return all, err
}

func fileDigest(file string) (v1.Hash, error) {
	f, err := os.Open(file)
	if err != nil {
		return v1.Hash{}, err
	}
	digest, _, err := v1.SHA256(f)
	return digest, errors.Join(err, f.Close())
}

// provenance writes the in-toto statement: which source these files and images were built from, and
// how. It is unsigned; the workflow of a release has GitHub and cosign sign what it built itself.
func (b builder) provenance(subjects []subject) error {
	files, err := b.digests()
	if err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	statement, err := b.statement(append(subjects, files...))
	if err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	content, err := stableJSON(statement)
	if err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	if err := os.WriteFile(b.asset(statementFile), content, 0o644); err != nil {
		return fmt.Errorf("write the provenance: %w", err)
	}
	return nil
}

func (b builder) statement(subjects []subject) (*intoto.Statement, error) {
	parameters, err := structpb.NewStruct(map[string]any{"version": b.Version, "changed": b.Changed})
	if err != nil {
		return nil, err
	}
	source, builder := b.origin()
	predicate := &provenance.Provenance{
		BuildDefinition: &provenance.BuildDefinition{
			BuildType:            "https://" + project + "/blob/main/docs/release.md",
			ExternalParameters:   parameters,
			ResolvedDependencies: source,
		},
		RunDetails: &provenance.RunDetails{Builder: &provenance.Builder{Id: builder}},
	}
	statement := &intoto.Statement{Type: intoto.StatementTypeUri, PredicateType: "https://slsa.dev/provenance/v1", Predicate: &structpb.Struct{}}
	content, err := protojson.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(content, statement.GetPredicate()); err != nil {
		return nil, err
	}
	for _, s := range subjects {
		name := s.Name
		if s.Tag != "" {
			name += ":" + s.Tag
		}
		statement.Subject = append(statement.Subject, &intoto.ResourceDescriptor{
			Name: name, Digest: map[string]string{s.Digest.Algorithm: s.Digest.Hex},
		})
	}
	return statement, errors.Join(predicate.Validate(), statement.Validate())
}

// origin returns the source and what built it: a workflow of GitHub, as its environment says, or
// a developer's machine. Files that were changed have no source that can be named.
func (b builder) origin() (source []*intoto.ResourceDescriptor, builder string) {
	server, repository, workflow := b.getenv("GITHUB_SERVER_URL"), b.getenv("GITHUB_REPOSITORY"), b.getenv("GITHUB_WORKFLOW_REF")
	commit := &intoto.ResourceDescriptor{Name: "local", Digest: map[string]string{"gitCommit": b.Commit}}
	builder = "local"
	if server != "" && repository != "" && workflow != "" {
		commit.Name, commit.Uri, builder = "", "git+"+server+"/"+repository, server+"/"+workflow
		if b.Tagged {
			commit.Uri += "@refs/tags/" + b.Version
		}
	}
	if b.Changed {
		b.say("files differ from commit %s: the provenance names no source", b.Commit)
		return nil, builder
	}
	return []*intoto.ResourceDescriptor{commit}, builder
}

// stableJSON returns JSON whose bytes depend on the content alone; protojson varies its spaces on
// purpose.
func stableJSON(message proto.Message) ([]byte, error) {
	content, err := protojson.Marshal(message)
	if err != nil {
		return nil, err
	}
	var plain any
	if err := json.Unmarshal(content, &plain); err != nil {
		return nil, err
	}
	content, err = json.MarshalIndent(plain, "", "  ")
	return append(content, '\n'), err
}

// checksums writes the digests of all files in the form of sha256sum.
func (b builder) checksums() error {
	files, err := b.digests()
	if err != nil {
		return fmt.Errorf("write the checksums: %w", err)
	}
	var text strings.Builder
	for _, f := range files {
		fmt.Fprintf(&text, "%s  %s\n", f.Digest.Hex, f.Name)
	}
	if err := os.WriteFile(b.asset(checksumsFile), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write the checksums: %w", err)
	}
	return nil
}
