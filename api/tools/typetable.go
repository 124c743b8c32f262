//go:build ignore

// Derives api/data/types.txt, the table of facts about Kubernetes' built-in types that checking, protobuf, patches and
// managed fields are driven by: JSON name, protobuf number, type, omitempty, merge keys. No prose is taken over.
//
// Usage: go run typetable.go K8S_IO_API_DIR APIMACHINERY_DIR APIEXTENSIONS_APISERVER_DIR KUBE_AGGREGATOR_DIR > ../data/types.txt
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"sort"
	"strconv"
	"strings"
)

type pkg struct {
	key   string // core/v1
	types map[string]*ast.TypeSpec
	docs  map[string]string
	files map[string]*ast.File // type name -> file
	order []string
}

var packages = map[string]*pkg{}

func load(dir, key string) {
	p := &pkg{key: key, types: map[string]*ast.TypeSpec{}, docs: map[string]string{}, files: map[string]*ast.File{}}
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	sort.Strings(names)
	for _, name := range names {
		base := filepath.Base(name)
		if strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "zz_") || strings.HasPrefix(base, "generated") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			panic(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				ts := spec.(*ast.TypeSpec)
				p.types[ts.Name.Name] = ts
				p.docs[ts.Name.Name] = gen.Doc.Text() + markers(gen.Doc) + markers(ts.Doc)
				p.files[ts.Name.Name] = file
				p.order = append(p.order, ts.Name.Name)
			}
		}
	}
	packages[key] = p
}

// go/ast's Text() drops nothing that starts with "+", but keep the raw lines anyway.
func markers(group *ast.CommentGroup) string {
	out := ""
	if group != nil {
		for _, c := range group.List {
			out += strings.TrimSpace(strings.TrimPrefix(c.Text, "//")) + "\n"
		}
	}
	return out
}

func short(key string) string { return key[strings.LastIndex(key, "/")+1:] }

// The package that a selector's left side names in a file.
func imported(file *ast.File, name string) string {
	for _, spec := range file.Imports {
		path, _ := strconv.Unquote(spec.Path.Value)
		local := filepath.Base(path)
		if spec.Name != nil {
			local = spec.Name.Name
		}
		if local == name {
			path = strings.TrimPrefix(path, "k8s.io/api/")
			return strings.TrimPrefix(path, "k8s.io/apimachinery/pkg/apis/")
		}
	}
	return name
}

var special = map[string]string{
	"k8s.io/apimachinery/pkg/api/resource.Quantity":  "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString": "intstr",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":    "raw",
	"k8s.io/apimachinery/pkg/runtime.Object":          "raw",
	"k8s.io/apimachinery/pkg/types.UID":               "string#types.UID",
	"k8s.io/apimachinery/pkg/types.NodeName":          "string#types.NodeName",
	"meta/v1.Time":                                    "time",
	"meta/v1.MicroTime":                               "microtime",
	"meta/v1.Duration":                                "duration",
	"meta/v1.FieldsV1":                                "fields",
	"apiextensions/v1.JSON":                           "raw",
	"apiextensions/v1.JSONSchemaPropsOrArray":         "schemaor:array",
	"apiextensions/v1.JSONSchemaPropsOrBool":          "schemaor:bool",
	"apiextensions/v1.JSONSchemaPropsOrStringArray":   "schemaor:strings",
	// A named list that is none in protobuf.
	"apiextensions/v1.ValidationRules": "[]@apiextensions/v1.ValidationRule",
}

func named(p *pkg, name string) string {
	full := p.key + "." + name
	if s, ok := special[full]; ok {
		return s
	}
	ts := p.types[name]
	if ts == nil {
		panic("no type " + full)
	}
	file := p.files[name]
	display := short(p.key) + "." + name
	switch t := ts.Type.(type) {
	case *ast.StructType:
		return "@" + full
	case *ast.Ident:
		inner := resolve(p, file, t)
		if strings.HasPrefix(inner, "@") {
			return inner
		}
		if i := strings.Index(inner, "#"); i >= 0 {
			inner = inner[:i]
		}
		return inner + "#" + display
	case *ast.ArrayType:
		// A named list is a message of its own in protobuf: field 1, repeated.
		return "wrap:" + resolve(p, file, t)
	case *ast.MapType:
		return resolve(p, file, t)
	case *ast.SelectorExpr:
		return resolve(p, file, t)
	}
	panic("what is " + full)
}

func resolve(p *pkg, file *ast.File, expr ast.Expr) string {
	switch t := expr.(type) {
	case *ast.Ident:
		switch t.Name {
		case "string", "bool", "int32", "int64", "float64", "byte", "int", "uint8", "uint32", "uint64", "any":
			return t.Name
		}
		return named(p, t.Name)
	case *ast.StarExpr:
		return "*" + resolve(p, file, t.X)
	case *ast.ArrayType:
		inner := resolve(p, file, t.Elt)
		if inner == "byte" {
			return "bytes"
		}
		return "[]" + inner
	case *ast.MapType:
		return "map:" + resolve(p, file, t.Value)
	case *ast.SelectorExpr:
		path := imported(file, t.X.(*ast.Ident).Name)
		if s, ok := special[path+"."+t.Sel.Name]; ok {
			return s
		}
		q := packages[path]
		if q == nil {
			panic("no package " + path + " for " + t.Sel.Name)
		}
		return named(q, t.Sel.Name)
	case *ast.InterfaceType:
		return "raw"
	}
	panic(fmt.Sprintf("what is %T", expr))
}

func marker(doc, name string) []string {
	var out []string
	for _, line := range strings.Split(doc, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "+"+name+"=") {
			value := strings.TrimPrefix(line, "+"+name+"=")
			seen := false
			for _, o := range out {
				seen = seen || o == value
			}
			if !seen {
				out = append(out, value)
			}
		}
	}
	return out
}

func emit(p *pkg) {
	for _, name := range p.order {
		ts := p.types[name]
		st, ok := ts.Type.(*ast.StructType)
		if !ok || special[p.key+"."+name] != "" || !ts.Name.IsExported() {
			continue
		}
		line := "T " + p.key + "." + name
		if m := marker(p.docs[name], "structType"); len(m) > 0 {
			line += " " + m[0]
		}
		fmt.Println(line)
		for _, field := range st.Fields.List {
			if field.Tag == nil {
				continue
			}
			raw, _ := strconv.Unquote(field.Tag.Value)
			tag := reflect.StructTag(raw)
			parts := strings.Split(tag.Get("json"), ",")
			if parts[0] == "-" {
				continue
			}
			flags := []string{}
			inline := len(field.Names) == 0 && parts[0] == ""
			if inline {
				flags = append(flags, "i")
			}
			for _, part := range parts[1:] {
				if part == "omitempty" {
					flags = append(flags, "o")
				}
				if part == "omitzero" {
					flags = append(flags, "z")
				}
			}
			number := "0"
			if pb := strings.Split(tag.Get("protobuf"), ","); len(pb) > 1 {
				number = pb[1]
			}
			if s := tag.Get("patchStrategy"); s != "" {
				flags = append(flags, "p:"+s)
			}
			if s := tag.Get("patchMergeKey"); s != "" {
				flags = append(flags, "k:"+s)
			}
			doc := markers(field.Doc)
			if m := marker(doc, "listType"); len(m) > 0 {
				l := "l:" + m[0]
				if keys := marker(doc, "listMapKey"); len(keys) > 0 {
					l += ":" + strings.Join(keys, ",")
				}
				flags = append(flags, l)
			}
			if m := marker(doc, "mapType"); len(m) > 0 {
				flags = append(flags, "m:"+m[0])
			}
			if m := marker(doc, "structType"); len(m) > 0 {
				flags = append(flags, "s:"+m[0])
			}
			fmt.Printf("%s|%s|%s|%s\n", parts[0], number, resolve(p, p.files[name], field.Type), strings.Join(flags, ";"))
		}
	}
}

func main() {
	api, machinery, extensions, aggregator := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	groups := []string{
		"core/v1", "apps/v1", "authentication/v1", "authorization/v1", "autoscaling/v1", "autoscaling/v2", "batch/v1",
		"certificates/v1", "coordination/v1", "discovery/v1", "events/v1", "networking/v1", "node/v1", "policy/v1",
		"rbac/v1", "scheduling/v1", "storage/v1", "admissionregistration/v1", "flowcontrol/v1", "resource/v1",
	}
	load(filepath.Join(machinery, "pkg/apis/meta/v1"), "meta/v1")
	for _, group := range groups {
		load(filepath.Join(api, group), group)
	}
	load(filepath.Join(extensions, "pkg/apis/apiextensions/v1"), "apiextensions/v1")
	load(filepath.Join(aggregator, "pkg/apis/apiregistration/v1"), "apiregistration/v1")
	for _, key := range append(append([]string{"meta/v1"}, groups...), "apiextensions/v1", "apiregistration/v1") {
		emit(packages[key])
	}
}
