// The software bills of materials. What a static Go program consists of is recorded in the program
// itself, so they are exact, and the same in every run.

package main

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// sbom writes the SPDX document of an image: its programs, and the modules of each.
func (b builder) sbom(image subject, programs []program) error {
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      image.Name + "-" + image.Tag,
		DocumentNamespace: fmt.Sprintf("https://%s/spdx/%s-%s-%s", project, image.Name, image.Tag, image.Digest.Hex),
		CreationInfo: &spdx.CreationInfo{
			Created:  b.Date.Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Organization", Creator: "podid"}, {CreatorType: "Tool", Creator: "podid-hack-release"}},
		},
	}
	root := newPackage("image-"+image.Name, image.Name, b.number(), "pkg:oci/"+image.Name+"@"+strings.Replace(image.Digest.String(), ":", "%3A", 1))
	root.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: image.Digest.Hex}}
	root.PackageLicenseDeclared = "Apache-2.0"
	doc.Packages = append(doc.Packages, root)
	relate(doc, "DOCUMENT", common.TypeRelationshipDescribe, root.PackageSPDXIdentifier)
	for _, p := range programs {
		if err := b.addProgram(doc, root.PackageSPDXIdentifier, p); err != nil {
			return err
		}
	}
	content, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(b.asset(image.Name+".spdx.json"), append(content, '\n'), 0o644)
}

// addProgram adds a program and the modules that are linked into it.
func (b builder) addProgram(doc *spdx.Document, image common.ElementID, p program) error {
	info, err := buildinfo.ReadFile(p.file)
	if err != nil {
		return fmt.Errorf("read the modules of %s: %w", p.file, err)
	}
	digest, err := fileDigest(p.file)
	if err != nil {
		return err
	}
	own := newPackage("program-"+p.name+"-"+p.platform.OS+"-"+p.platform.Arch, p.name, b.number(),
		"pkg:golang/"+info.Main.Path+"@"+b.Version+"#"+strings.TrimPrefix(info.Path, info.Main.Path+"/"))
	own.PackageFileName = "/" + p.name
	own.PackageComment = "for " + p.platform.String()
	own.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: digest.Hex}}
	own.PackageLicenseDeclared = "Apache-2.0"
	doc.Packages = append(doc.Packages, own)
	relate(doc, image, common.TypeRelationshipContains, own.PackageSPDXIdentifier)
	modules := []*debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range append(modules, info.Deps...) {
		if m.Replace != nil {
			m = m.Replace
		}
		relate(doc, own.PackageSPDXIdentifier, common.TypeRelationshipDependsOn, addModule(doc, m))
	}
	return nil
}

// addModule adds a module unless it is there, and returns its name in the document.
func addModule(doc *spdx.Document, m *debug.Module) common.ElementID {
	added := newPackage("module-"+m.Path+"-"+m.Version, m.Path, m.Version, "pkg:golang/"+m.Path+"@"+m.Version)
	same := func(p *spdx.Package) bool { return p.PackageSPDXIdentifier == added.PackageSPDXIdentifier }
	if !slices.ContainsFunc(doc.Packages, same) {
		doc.Packages = append(doc.Packages, added)
	}
	return added.PackageSPDXIdentifier
}

func newPackage(id, name, version, purl string) *spdx.Package {
	const unknown = "NOASSERTION"
	return &spdx.Package{
		PackageSPDXIdentifier: common.ElementID(regexp.MustCompile(`[^A-Za-z0-9.-]`).ReplaceAllString(id, "-")),
		PackageName:           name, PackageVersion: version, PackageDownloadLocation: unknown,
		PackageLicenseConcluded: unknown, PackageLicenseDeclared: unknown, PackageCopyrightText: unknown,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
		}},
	}
}

func relate(doc *spdx.Document, from common.ElementID, how string, to common.ElementID) {
	doc.Relationships = append(doc.Relationships, &spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: from}, RefB: common.DocElementID{ElementRefID: to}, Relationship: how,
	})
}
