import org.codehaus.groovy.ast.ClassNode
import org.codehaus.groovy.ast.DynamicVariable
import org.codehaus.groovy.ast.expr.ArgumentListExpression
import org.codehaus.groovy.ast.expr.BinaryExpression
import org.codehaus.groovy.ast.expr.BooleanExpression
import org.codehaus.groovy.ast.expr.ClosureExpression
import org.codehaus.groovy.ast.expr.ConstantExpression
import org.codehaus.groovy.ast.expr.ConstructorCallExpression
import org.codehaus.groovy.ast.expr.DeclarationExpression
import org.codehaus.groovy.ast.expr.ElvisOperatorExpression
import org.codehaus.groovy.ast.expr.Expression
import org.codehaus.groovy.ast.expr.GStringExpression
import org.codehaus.groovy.ast.expr.ListExpression
import org.codehaus.groovy.ast.expr.MapEntryExpression
import org.codehaus.groovy.ast.expr.MapExpression
import org.codehaus.groovy.ast.expr.MethodCallExpression
import org.codehaus.groovy.ast.expr.NotExpression
import org.codehaus.groovy.ast.expr.PropertyExpression
import org.codehaus.groovy.ast.expr.TernaryExpression
import org.codehaus.groovy.ast.expr.TupleExpression
import org.codehaus.groovy.ast.expr.VariableExpression
import org.codehaus.groovy.classgen.GeneratorContext
import org.codehaus.groovy.control.CompilePhase
import org.codehaus.groovy.control.SourceUnit
import org.codehaus.groovy.control.customizers.CompilationCustomizer
import org.codehaus.groovy.control.customizers.SecureASTCustomizer
import org.codehaus.groovy.control.customizers.SecureASTCustomizer.ExpressionChecker

/**
 * Refuses, at compile time, what Jenkins' Groovy sandbox would refuse when the script runs.
 *
 * The sandbox asks a list of signatures at each call: the files generic-whitelist and
 * generic-whitelist-groovy2 of https://github.com/jenkinsci/script-security-plugin, under src/main/resources
 * in …/sandbox/whitelists. Here the types at a call are not known, so the rule is narrower: only what is
 * named below, which the list has for lists, maps and texts. No static call at all, though the list has
 * some, and no class but in a declaration. What the DSL's own methods may be, the table tells.
 */
class Sandbox {

    /** What may be called on an object, with the signatures in the list that allow it. */
    static final Map<String, String> METHODS = [
        hasVariable: 'method groovy.lang.Binding hasVariable java.lang.String',
        each: 'staticMethod …DefaultGroovyMethods each java.util.List|java.util.Map groovy.lang.Closure',
        collectEntries: 'staticMethod …DefaultGroovyMethods collectEntries java.util.Map groovy.lang.Closure',
        join: 'staticMethod …DefaultGroovyMethods join java.lang.Iterable|java.util.Collection java.lang.String',
        findAll: 'staticMethod …DefaultGroovyMethods findAll java.util.Collection|java.util.Map groovy.lang.Closure',
    ]

    /** What may be read of the script itself: 'method groovy.lang.Script getBinding'. */
    static final Set<String> VARIABLES = ['binding', 'this'] as Set

    /** What may be thrown: 'new java.lang.Exception java.lang.String'; the list has no other. */
    static final String EXCEPTION = 'java.lang.Exception'

    /** Ways out of a map or a text that the list does not have. */
    static final Set<String> REFLECTION = [
        'class', 'classLoader', 'declaringClass', 'delegate', 'metaClass', 'metaPropertyValues', 'owner',
        'properties', 'thisObject', 'variables',
    ] as Set

    private static final List<Class> EXPRESSIONS = [
        ArgumentListExpression, BinaryExpression, BooleanExpression, ClosureExpression, ConstantExpression,
        ConstructorCallExpression, DeclarationExpression, ElvisOperatorExpression, GStringExpression,
        ListExpression, MapEntryExpression, MapExpression, MethodCallExpression, NotExpression,
        PropertyExpression, TernaryExpression, TupleExpression, VariableExpression,
    ]

    /**
     * What a compiler needs in order to refuse.
     *
     * @param words the methods that may be called without an object: those of the DSL
     */
    static CompilationCustomizer[] customizers(Set<String> words) {
        SecureASTCustomizer secure = new SecureASTCustomizer(
            packageAllowed: false,
            methodDefinitionAllowed: false,
            importsWhitelist: [],
            starImportsWhitelist: [],
            staticImportsWhitelist: [],
            staticStarImportsWhitelist: [],
            expressionsWhitelist: EXPRESSIONS,
        )
        secure.addExpressionCheckers({ Expression each -> check(each, words) } as ExpressionChecker)
        [new OneClass(), secure] as CompilationCustomizer[]
    }

    private static boolean check(Expression expression, Set<String> words) {
        if (!allowed(expression, words)) {
            throw new Refused("line ${expression.lineNumber}: the sandbox has no ${expression.text}")
        }
        true
    }

    private static boolean allowed(Expression expression, Set<String> words) {
        switch (expression) {
            case MethodCallExpression:
                Set<String> methods = expression.implicitThis ? words : METHODS.keySet()
                return expression.methodAsString in methods && !expression.spreadSafe
            case ClosureExpression:
                // The visitor does not see what a parameter is by default.
                return !expression.parameters.any { parameter -> parameter.initialExpression }
            case ConstructorCallExpression:
                return expression.type.name == EXCEPTION
            case DeclarationExpression:
                return !expression.annotations
            case PropertyExpression:
                boolean ofScript = expression.objectExpression.text == 'this'
                String name = expression.propertyAsString
                return (name ? !(name in REFLECTION) : ofScript) && !expression.spreadSafe
            case VariableExpression:
                return !(expression.accessedVariable instanceof DynamicVariable) || expression.name in VARIABLES
            default:
                return true
        }
    }

}

/** Refuses a class beside the script: the other customizer looks at the script alone. */
class OneClass extends CompilationCustomizer {

    OneClass() {
        super(CompilePhase.CONVERSION)
    }

    @Override
    void call(SourceUnit source, GeneratorContext context, ClassNode node) {
        if (source.AST.classes.size() > 1 || !node.script) {
            throw new Refused("Classes are not allowed: ${source.AST.classes*.name.join(', ')}")
        }
    }

}
